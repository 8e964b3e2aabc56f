/* What both variants for AVX-512 share: vectors of bits, attention by signature, and where the first layer's sums start.
 *
 * The including file has allowed the instructions and defines Input; below its inclusion of this file it defines
 *
 *   put_16(to, inside, values)   16 values as inputs, those of `inside`; where inputs are int8 they lie in 0..1
 *
 * and what chunks.h asks for, but put_tiers, put_attention and slot_of.
 */
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

typedef int16_t Sum;
#define BYTES 64
#include "signs.h"
#include "tiers.h"
#include "chunks.h"

INLINE void put_16(Input *to, __mmask16 inside, __m512 values);

INLINE __mmask16 inside_of(int left) { return left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1); }

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

INLINE int32_t slot_of(const Request *r, int32_t bucket) {
    int32_t found = r->categories;
    for (int32_t slot = 0; slot < r->categories; slot += 16) {
        __mmask16 inside = inside_of(r->categories - slot);
        uint32_t equal = _mm512_mask_cmpeq_epi32_mask(
            inside, _mm512_set1_epi32(bucket), _mm512_maskz_loadu_epi32(inside, r->category_buckets + slot));
        found = equal ? slot + __builtin_ctz(equal) : found;
    }
    return found;
}

/* Where 16 sums of the first layer start: bias and category, and the signs. */
INLINE __m512 start_of(const float *start, const int16_t *signs, const float *scale) {
    __m512 wide = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)signs)));
    return _mm512_fmadd_ps(wide, _mm512_loadu_ps(scale), _mm512_loadu_ps(start));
}

/* log1p of 16 counts, to 6e-5 of it: e ln 2 + log1p(f) of 2^e (1 + f). */
INLINE __m512 log1p_of(__m512i counts) {
    __m512 plus_one = _mm512_cvtepi32_ps(_mm512_add_epi32(counts, _mm512_set1_epi32(1)));
    __m512 exponent = _mm512_getexp_ps(plus_one);
    __m512 f = _mm512_sub_ps(_mm512_getmant_ps(plus_one, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero), _mm512_set1_ps(1));
    __m512 ratio = _mm512_fmadd_ps(_mm512_set1_ps(0.041347333f), f, _mm512_set1_ps(-0.15742727f)); /* log1p(f) / f */
    ratio = _mm512_fmadd_ps(ratio, f, _mm512_set1_ps(0.30630097f));
    ratio = _mm512_fmadd_ps(ratio, f, _mm512_set1_ps(-0.49697781f));
    ratio = _mm512_fmadd_ps(ratio, f, _mm512_set1_ps(0.99994328f));
    return _mm512_fmadd_ps(exponent, _mm512_set1_ps(0.69314718f), _mm512_mul_ps(f, ratio));
}

INLINE void put_tiers(const Request *r, const uint16_t *counters, Input *to) {
    int span = counters_of_group(r), tiers = r->tiers;
    const __m512 scale = _mm512_set1_ps(r->tier_scale);
    if (tiers == 8 && r->groups == 2) { /* both groups at once; behind the counters of a group stands a zero */
        __m128i low = _mm_sub_epi16(_mm_loadu_si128((const __m128i *)counters), _mm_loadu_si128((const __m128i *)(counters + 1)));
        __m128i high = _mm_sub_epi16(_mm_loadu_si128((const __m128i *)(counters + span)), _mm_loadu_si128((const __m128i *)(counters + span + 1)));
        put_16(to, 0xFFFF, _mm512_mul_ps(log1p_of(_mm512_cvtepu16_epi32(_mm256_set_m128i(high, low))), scale));
        return;
    }
    for (int group = 0; group < r->groups; group++, counters += span, to += tiers)
        for (int tier = 0; tier < tiers; tier += 16) {
            __mmask16 inside = inside_of(tiers - tier);
            __m256i edges = _mm256_maskz_loadu_epi16(inside, counters + tier);
            __m256i above = _mm256_maskz_loadu_epi16(inside & inside_of(tiers - tier - 1), counters + tier + 1);
            __m512 values = log1p_of(_mm512_cvtepu16_epi32(_mm256_sub_epi16(edges, above)));
            put_16(to + tier, inside, _mm512_mul_ps(values, scale));
        }
}

/* Of up to 16 * vectors attended behaviours. A small constant number of vectors stays in registers. */
INLINE void put_weights(const Request *r, const uint64_t *signature, int vectors, __m512 *weights, Input *to) {
    __m512 sums = _mm512_setzero_ps();
    for (int v = 0; v < vectors; v++) {
        __m512 found = attention_at(r, differing(r, signature, 16 * v, 16 * vectors));
        weights[v] = _mm512_maskz_mov_ps(inside_of(r->attended - 16 * v), found);
        sums = _mm512_add_ps(sums, weights[v]);
    }
    float sum = _mm512_reduce_add_ps(sums);
    __m512 scale = _mm512_set1_ps(sum > 0 ? 1.0f / sum : 0.0f);
    for (int v = 0; v < vectors; v++) put_16(to + 16 * v, inside_of(r->attended - 16 * v), _mm512_mul_ps(weights[v], scale));
}

INLINE void put_attention(const Request *r, const uint64_t *signature, float *weights, Input *to) {
    int vectors = (r->attended + 15) / 16;
    __m512 few[2];
    if (vectors == 2 && r->words == 1)
        put_weights(r, signature, 2, few, to);
    else
        put_weights(r, signature, vectors, (__m512 *)weights, to);
}
