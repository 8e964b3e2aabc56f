/* AVX-512 with VPOPCNTDQ, VBMI and BF16: Zen 4 and Sapphire Rapids on. bfloat16 inputs and weights, float32 sums and
 * last layer. */
#include "request.h"

#ifdef AIF_X86
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vpopcntdq,avx512bf16,bmi,bmi2,fma,popcnt")
typedef uint16_t Input;
#include "avx512.h"

INLINE void put_halves(uint16_t *to, const uint8_t *from, int count) {
    for (int at = 0; at < count; at += 32) {
        __mmask32 inside = _cvtu32_mask32(count - at >= 32 ? 0xFFFFFFFFu : (1u << (count - at)) - 1);
        _mm512_mask_storeu_epi16(to + at, inside, _mm512_maskz_loadu_epi16(inside, from + 2 * at));
    }
}

INLINE float put_record(const Request *r, const uint8_t *record, uint16_t *vector, uint16_t *bridges) {
    put_halves(vector, record + r->vector_at, r->vector_dim);
    put_halves(bridges, record + r->bridges_at, r->bridges);
    return 1;
}

INLINE void put_16(uint16_t *to, __mmask16 inside, __m512 values) {
    _mm256_mask_storeu_epi16(to, inside, (__m256i)_mm512_cvtneps_pbh(values));
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

/* Both hidden layers and the last one of `count` candidates, whose input rows stand in scratch. */
INLINE void layers(const Request *r, const uint8_t *records, int count, Scratch *s, const int16_t *signs, float *logits) {
    long columns = r->columns_model + r->columns_user, hidden1 = r->hidden1;
    const __m512 zero = _mm512_setzero_ps();
    const float *starts[BLOCK];
    uint64_t factor = bucket_factor(r);
    for (int c = 0; c < BLOCK; c++)
        starts[c] = r->start + hidden1 * (c < count ? category_slot(r, records + (long)c * r->stride, factor) : r->categories);
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
