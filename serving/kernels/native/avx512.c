/* AVX-512 with VPOPCNTDQ, VBMI and BF16: Zen 4 and Sapphire Rapids on. bfloat16 inputs and weights, float32 sums and
 * last layer. */
#include "request.h"

#ifdef AIF_X86
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vpopcntdq,avx512bf16,bmi,bmi2,fma,popcnt")
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t V __attribute__((vector_size(64), aligned(8), may_alias));
enum { LANES = 8, TILE = 64, VECTORS = TILE / 16 };
#define XOR3(a, b, c) ((V)_mm512_ternarylogic_epi64((__m512i)(a), (__m512i)(b), (__m512i)(c), 0x96))
#define IN_REGISTER(v) __asm__("" : "+v"(v)) /* or GCC loads it once for the sum and once for the carry */
#define MAJORITY(a, b, c) ((V)_mm512_ternarylogic_epi64((__m512i)(a), (__m512i)(b), (__m512i)(c), 0xE8))

/* Each lane's populations become the bytes of a 64-bit word; transposing the bytes and summing them adds the lanes. */
INLINE void add_ones(const V ge[8], V mask, uint16_t *counters) {
    static const uint8_t by_edge[64] __attribute__((aligned(64))) = {
        0, 8,  16, 24, 32, 40, 48, 56, 1, 9,  17, 25, 33, 41, 49, 57, 2, 10, 18, 26, 34, 42, 50, 58, 3, 11, 19, 27, 35, 43, 51, 59,
        4, 12, 20, 28, 36, 44, 52, 60, 5, 13, 21, 29, 37, 45, 53, 61, 6, 14, 22, 30, 38, 46, 54, 62, 7, 15, 23, 31, 39, 47, 55, 63,
    };
    __m512i bytes = _mm512_popcnt_epi64((__m512i)(ge[0] & mask));
#pragma GCC unroll 8
    for (int edge = 1; edge < 8; edge++) {
        __m512i ones = _mm512_popcnt_epi64((__m512i)(ge[edge] & mask));
        bytes = _mm512_or_si512(bytes, _mm512_slli_epi64(ones, 8 * edge));
    }
    bytes = _mm512_permutexvar_epi8(_mm512_load_si512(by_edge), bytes);
    __m128i sums = _mm512_cvtepi64_epi16(_mm512_sad_epu8(bytes, _mm512_setzero_si512()));
    __m128i *at = (__m128i *)counters;
    _mm_storeu_si128(at, _mm_add_epi16(_mm_loadu_si128(at), sums));
}

typedef uint16_t Input;
typedef int16_t Sum;
#define BYTES 64
#include "signs.h"
#include "tiers.h"
#include "chunks.h"

INLINE void put_halves(uint16_t *to, const uint8_t *from, int count) {
    for (int at = 0; at < count; at += 32) {
        __mmask32 inside = _cvtu32_mask32(count - at >= 32 ? 0xFFFFFFFFu : (1u << (count - at)) - 1);
        _mm512_mask_storeu_epi16(to + at, inside, _mm512_maskz_loadu_epi16(inside, from + 2 * at));
    }
}

/* Differing bits of a signature and 16 attended behaviours. */
INLINE __m512i differing(const Request *r, const uint64_t *signature, int first, int padded) {
    __m512i low = _mm512_setzero_si512(), high = low;
    for (int word = 0; word < r->words; word++) {
        const uint64_t *own = r->attended_words + (long)word * padded + first;
        const __m512i bits = _mm512_set1_epi64((long long)signature[word]);
        low = _mm512_add_epi64(low, _mm512_popcnt_epi64(_mm512_xor_si512(bits, _mm512_loadu_si512(own))));
        high = _mm512_add_epi64(high, _mm512_popcnt_epi64(_mm512_xor_si512(bits, _mm512_loadu_si512(own + 8))));
    }
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(low)), _mm512_cvtepi64_epi32(high), 1);
}

/* The attention table at 16 places; one of 65 values is looked up in registers. */
INLINE __m512 attention_at(const Request *r, __m512i places) {
    if (r->words > 1) return _mm512_i32gather_ps(places, r->attention, 4);
    const float *table = r->attention;
    __m512 low = _mm512_permutex2var_ps(_mm512_loadu_ps(table), places, _mm512_loadu_ps(table + 16));
    __m512 high = _mm512_permutex2var_ps(_mm512_loadu_ps(table + 32), places, _mm512_loadu_ps(table + 48));
    __m512 found = _mm512_mask_blend_ps(_mm512_test_epi32_mask(places, _mm512_set1_epi32(32)), low, high);
    return _mm512_mask_mov_ps(found, _mm512_test_epi32_mask(places, _mm512_set1_epi32(64)), _mm512_set1_ps(table[64]));
}

INLINE void put_attention(const Request *r, const uint64_t *signature, float *weights, uint16_t *to) {
    int padded = (r->attended + 15) / 16 * 16;
    __m512 sums = _mm512_setzero_ps();
    for (int first = 0; first < padded; first += 16) {
        int left = r->attended - first;
        __mmask16 inside = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
        __m512 found = attention_at(r, differing(r, signature, first, padded));
        sums = _mm512_mask_add_ps(sums, inside, sums, found);
        _mm512_storeu_ps(weights + first, found);
    }
    float sum = _mm512_reduce_add_ps(sums);
    __m512 scale = _mm512_set1_ps(sum > 0 ? 1.0f / sum : 0.0f);
    for (int first = 0; first < padded; first += 16) {
        int left = r->attended - first;
        __mmask16 inside = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
        __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(weights + first), scale);
        _mm256_mask_storeu_epi16(to + first, inside, (__m256i)_mm512_cvtneps_pbh(scaled));
    }
}

/* Products of CANDIDATES rows with one tile of weights, added to the sums. */
INLINE void multiply(__m512 sums[CANDIDATES][VECTORS], const uint16_t *rows, long row, const uint16_t *weights, int columns) {
    for (int column = 0; column < columns; column += 2, weights += 2 * TILE) {
        __m512i weight[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) weight[v] = _mm512_loadu_si512(weights + 32 * v);
#pragma GCC unroll 6
        for (int c = 0; c < CANDIDATES; c++) {
            __m512i input = _mm512_set1_epi32((int)load32((const uint8_t *)(rows + c * row + column)));
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                sums[c][v] = _mm512_dpbf16_ps(sums[c][v], (__m512bh)input, (__m512bh)weight[v]);
        }
    }
}

/* Where 16 sums of the first layer start: bias and category, and the signs. */
INLINE __m512 start_of(const float *start, const int16_t *signs, const float *scale) {
    __m512 wide = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)signs)));
    return _mm512_fmadd_ps(wide, _mm512_loadu_ps(scale), _mm512_loadu_ps(start));
}

/* Both hidden layers and the last one of `count` candidates, whose input rows stand in scratch. */
INLINE void layers(const Request *r, const uint8_t *records, int count, Scratch *s, const int16_t *signs, float *logits) {
    long columns = r->columns_model + r->columns_user, hidden1 = r->hidden1;
    const __m512 zero = _mm512_setzero_ps();
    const float *starts[BLOCK];
    for (int c = 0; c < BLOCK; c++)
        starts[c] = r->start + hidden1 * (c < count ? category_slot(r, records + (long)c * r->stride) : r->categories);
    for (int tile = 0; tile < hidden1; tile += TILE) {
        const uint16_t *of_model = (const uint16_t *)r->model_weight + (long)tile * r->columns_model;
        const uint16_t *of_user = (const uint16_t *)r->user_weight + (long)tile * r->columns_user;
        for (int first = 0; first < count; first += CANDIDATES) {
            __m512 sums[CANDIDATES][VECTORS];
            const uint16_t *inputs = s->inputs + first * columns;
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++)
                    sums[c][v] = start_of(starts[first + c] + tile + 16 * v, signs + (first + c) * hidden1 + tile + 16 * v,
                                          r->sign_scale + tile + 16 * v);
            multiply(sums, inputs, columns, of_model, r->columns_model);
            multiply(sums, inputs + r->columns_model, columns, of_user, r->columns_user);
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++)
                    _mm256_storeu_si256((__m256i *)(s->hidden + (first + c) * hidden1 + tile + 16 * v),
                                        (__m256i)_mm512_cvtneps_pbh(_mm512_max_ps(zero, sums[c][v])));
        }
    }
    for (int c = 0; c < count; c++) logits[c] = r->b3;
    for (int tile = 0; tile < r->hidden2; tile += TILE) {
        const uint16_t *weights = (const uint16_t *)r->weight2 + tile * hidden1;
        for (int first = 0; first < count; first += CANDIDATES) {
            __m512 sums[CANDIDATES][VECTORS], outputs[CANDIDATES];
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) sums[c][v] = _mm512_loadu_ps(r->bias2 + tile + 16 * v);
            multiply(sums, s->hidden + first * hidden1, hidden1, weights, (int)hidden1);
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++) {
                outputs[c] = zero;
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++)
                    outputs[c] = _mm512_fmadd_ps(_mm512_max_ps(zero, sums[c][v]), _mm512_loadu_ps(r->weight3 + tile + 16 * v), outputs[c]);
            }
            for (int c = 0; c < CANDIDATES && first + c < count; c++) logits[first + c] += _mm512_reduce_add_ps(outputs[c]);
        }
    }
}

int aif_score_avx512(const Request *request, const uint8_t *rows, int64_t count, float *out) {
    return score_rows(request, rows, count, out);
}

#endif
