/* AVX-512 with VPOPCNTDQ, VBMI and VNNI: Ice Lake and Zen 4 on. Inputs, the first hidden layer and their weights are
 * whole numbers of 8 bits, four products to a 32-bit sum; everything between is float32.
 *
 * Weights have a unit for each output, the largest magnitude / 127. Inputs are unsigned. A vector's values are counts of
 * its own unit, the largest magnitude / 127, plus 128; `model_start` takes the 128s back. What else is an input lies in
 * 0..1 and counts 255ths (tiers of their largest value, which their weights are multiplied by). Hidden values count
 * 255ths of the candidate's largest. No range is learned and none can be left.
 */
#include "request.h"

#ifdef AIF_X86
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vpopcntdq,avx512vnni,bmi,bmi2,fma,popcnt")
typedef uint8_t Input;
#include "avx512.h"

#define SMALLEST 1e-30f /* of which a unit can be inverted; what is below counts as 0 */
enum { VALUE = 0x7FFF, NOT_FINITE = 0x7F80 }; /* of a bfloat16: all but its sign; what its value is below */

/* The largest of 32 magnitudes of bfloat16, as bits. One that is not a number is larger than any that is. */
INLINE uint32_t largest_of(__m512i magnitudes) {
    __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(magnitudes), _mm512_extracti64x4_epi64(magnitudes, 1));
    __m128i quarter = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return 0xFFFF & ~(uint32_t)_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1))));
}

/* 16 values of bfloat16, zeros where they are not inside. */
INLINE __m512 halves_at(const uint8_t *from, __mmask16 inside) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(inside, from)), 16));
}

INLINE __m512i magnitudes_at(const uint8_t *from, int left) {
    __mmask32 inside = _cvtu32_mask32(left >= 32 ? 0xFFFFFFFFu : (1u << left) - 1);
    return _mm512_and_si512(_mm512_maskz_loadu_epi16(inside, from), _mm512_set1_epi16(VALUE));
}

INLINE void put_16(uint8_t *to, __mmask16 inside, __m512 values) {
    __m512i counts = _mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(255)));
    _mm_mask_storeu_epi8(to, inside, _mm512_cvtusepi32_epi8(counts));
}

/* A record with a value that is not finite has a unit that is not, and with it no score. */
INLINE float put_record(const Request *r, const uint8_t *record, uint8_t *vector, uint8_t *bridges) {
    const uint8_t *values = record + r->vector_at, *shares = record + r->bridges_at;
    __m512i magnitudes = _mm512_setzero_si512(), beside = magnitudes;
    for (int at = 0; at < r->vector_dim; at += 32)
        magnitudes = _mm512_max_epu16(magnitudes, magnitudes_at(values + 2 * at, r->vector_dim - at));
    for (int at = 0; at < r->bridges; at += 32)
        beside = _mm512_max_epu16(beside, magnitudes_at(shares + 2 * at, r->bridges - at));
    uint32_t bits = largest_of(magnitudes);
    if (_mm512_cmpge_epu16_mask(beside, _mm512_set1_epi16(NOT_FINITE))) bits = VALUE;
    union { uint32_t bits; float value; } largest = {bits << 16};
    __m512 per_unit = _mm512_set1_ps(largest.value > SMALLEST ? 127 / largest.value : 0);
    for (int at = 0; at < r->vector_dim; at += 16) {
        __mmask16 inside = inside_of(r->vector_dim - at);
        __m512i counts = _mm512_cvtps_epi32(_mm512_mul_ps(halves_at(values + 2 * at, inside), per_unit));
        _mm_mask_storeu_epi8(vector + at, inside, _mm512_cvtepi32_epi8(_mm512_add_epi32(counts, _mm512_set1_epi32(128))));
    }
    for (int at = 0; at < r->bridges; at += 16) {
        __mmask16 inside = inside_of(r->bridges - at);
        put_16(bridges + at, inside, halves_at(shares + 2 * at, inside));
    }
    return largest.value / 127;
}

/* Products of CANDIDATES rows with one tile of weights, added to the sums. */
INLINE void multiply(__m512i sums[CANDIDATES][VECTORS], const uint8_t *rows, long row, const int8_t *weights, int columns) {
    for (int column = 0; column < columns; column += 4, weights += 4 * TILE) {
        __m512i weight[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) weight[v] = _mm512_loadu_si512(weights + 64 * v);
#pragma GCC unroll 6
        for (int c = 0; c < CANDIDATES; c++) {
            __m512i input = _mm512_set1_epi32((int)load32(rows + c * row + column));
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) __asm__("vpdpbusd %2, %1, %0" : "+v"(sums[c][v]) : "v"(input), "v"(weight[v]));
        }
    }
}

/* The first layer's values ([count][hidden1] float32), not negative. Sums over the vector and over the rest have units of
 * their own, so that they are made one after the other. */
INLINE void first_layer(const Request *r, const uint8_t *records, int count, Scratch *s, const int16_t *signs) {
    long columns = r->columns_model + r->columns_user, hidden1 = r->hidden1;
    uint64_t factor = bucket_factor(r);
    for (int c = 0; c < count; c++) {
        const float *start = r->start + hidden1 * category_slot(r, records + (long)c * r->stride, factor);
        for (long at = 0; at < hidden1; at += 16)
            _mm512_storeu_ps(s->values + c * hidden1 + at, start_of(start + at, signs + c * hidden1 + at, r->sign_scale + at));
    }
    for (int tile = 0; tile < hidden1; tile += TILE) {
        const int8_t *of_model = (const int8_t *)r->model_weight + (long)tile * r->columns_model;
        const int8_t *of_user = (const int8_t *)r->user_weight + (long)tile * r->columns_user;
        for (int first = 0; first < count; first += CANDIDATES) {
            __m512i sums[CANDIDATES][VECTORS];
            const uint8_t *inputs = s->inputs + first * columns;
            float *values = s->values + first * hidden1 + tile;
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                sums[0][v] = _mm512_loadu_si512(r->model_start + tile + 16 * v);
#pragma GCC unroll 5
                for (int c = 1; c < CANDIDATES; c++) sums[c][v] = sums[0][v];
            }
            multiply(sums, inputs, columns, of_model, r->columns_model);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                __m512 scale = _mm512_loadu_ps(r->model_scale + tile + 16 * v);
#pragma GCC unroll 6
                for (int c = 0; c < CANDIDATES; c++) {
                    float *value = values + c * hidden1 + 16 * v;
                    __m512 worth = _mm512_mul_ps(_mm512_set1_ps(s->units[first + c]), scale);
                    _mm512_storeu_ps(value, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c][v]), worth, _mm512_loadu_ps(value)));
                    sums[c][v] = _mm512_setzero_si512();
                }
            }
            multiply(sums, inputs + r->columns_model, columns, of_user, r->columns_user);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) {
                __m512 scale = _mm512_loadu_ps(r->user_scale + tile + 16 * v);
#pragma GCC unroll 6
                for (int c = 0; c < CANDIDATES; c++) {
                    float *value = values + c * hidden1 + 16 * v;
                    __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c][v]), scale, _mm512_loadu_ps(value));
                    _mm512_storeu_ps(value, _mm512_max_ps(_mm512_setzero_ps(), sum)); /* in this order: NaN stays */
                }
            }
        }
    }
}

/* One candidate's hidden values as counts; what a count is worth. Compared as bits NaN is the largest. */
INLINE float round_hidden(const float *values, uint8_t *to, long hidden1) {
    __m512i most = _mm512_setzero_si512();
    for (long at = 0; at < hidden1; at += 16) most = _mm512_max_epu32(most, _mm512_loadu_si512(values + at));
    union { uint32_t bits; float value; } largest = {_mm512_reduce_max_epu32(most)};
    __m512 per_unit = _mm512_set1_ps(largest.value > SMALLEST ? 255 / largest.value : 0);
    for (long at = 0; at < hidden1; at += 16)
        _mm_storeu_si128((__m128i *)(to + at),
                         _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(values + at), per_unit))));
    return largest.value / 255;
}

INLINE void layers(const Request *r, const uint8_t *records, int count, Scratch *s, const int16_t *signs, float *logits) {
    long hidden1 = r->hidden1;
    float units[BLOCK];
    first_layer(r, records, count, s, signs);
    int rounded = (count + CANDIDATES - 1) / CANDIDATES * CANDIDATES;
    for (int c = 0; c < rounded; c++) units[c] = round_hidden(s->values + c * hidden1, s->hidden + c * hidden1, hidden1);
    for (int c = 0; c < count; c++) logits[c] = r->b3;
    for (int tile = 0; tile < r->hidden2; tile += TILE) {
        const int8_t *weights = (const int8_t *)r->weight2 + tile * hidden1;
        for (int first = 0; first < count; first += CANDIDATES) {
            __m512i sums[CANDIDATES][VECTORS];
            __m512 outputs[CANDIDATES];
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) sums[c][v] = _mm512_setzero_si512();
            multiply(sums, s->hidden + first * hidden1, hidden1, weights, (int)hidden1);
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++) {
                __m512 unit = _mm512_set1_ps(units[first + c]);
                outputs[c] = _mm512_setzero_ps();
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) {
                    int at = tile + 16 * v;
                    __m512 worth = _mm512_mul_ps(unit, _mm512_loadu_ps(r->scale2 + at));
                    __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c][v]), worth, _mm512_loadu_ps(r->bias2 + at));
                    sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
                    outputs[c] = _mm512_fmadd_ps(sum, _mm512_loadu_ps(r->weight3 + at), outputs[c]);
                }
            }
            for (int c = 0; c < CANDIDATES && first + c < count; c++) logits[first + c] += _mm512_reduce_add_ps(outputs[c]);
        }
    }
}

int aif_score_avx512_int8(const Request *request, const uint8_t *rows, int64_t count, float *out) {
    return score_rows(request, rows, count, out);
}

#endif
