/* Any machine: float32 inputs and weights, GCC's vectors. The including file defines BYTES, the size of its vectors; it
 * may allow instructions first, which must be for the whole file: GCC splits vectors before it inlines. */
#include "request.h"

#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed between inlined functions alone */

typedef uint64_t V __attribute__((vector_size(BYTES), aligned(8), may_alias));
typedef float F __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef int32_t M __attribute__((vector_size(BYTES), aligned(4), may_alias));
enum { LANES = BYTES / 8, WIDTH = BYTES / 4, TILE = 2 * WIDTH, VECTORS = 2 };
#define XOR3(a, b, c) ((a) ^ (b) ^ (c))
#define MAJORITY(a, b, c) (((a) & (b)) | ((c) & ((a) | (b))))
#define IN_REGISTER(v) (void)(v)

INLINE void add_ones(const V ge[8], V mask, uint16_t *counters) {
    for (int edge = 0; edge < 8; edge++) {
        V reached = ge[edge] & mask;
        int ones = 0;
        for (int lane = 0; lane < LANES; lane++) ones += __builtin_popcountll(reached[lane]);
        counters[edge] += (uint16_t)ones;
    }
}

typedef float Input;
typedef float Sum;
#include "signs.h"
#include "tiers.h"
#include "chunks.h"

INLINE void put_halves(float *to, const uint8_t *from, int count) {
    for (int at = 0; at < count; at++) {
        union { uint32_t bits; float value; } wide = {(uint32_t)(from[2 * at] | from[2 * at + 1] << 8) << 16};
        to[at] = wide.value;
    }
}

INLINE float put_record(const Request *r, const uint8_t *record, float *vector, float *bridges) {
    put_halves(vector, record + r->vector_at, r->vector_dim);
    put_halves(bridges, record + r->bridges_at, r->bridges);
    return 1;
}

INLINE void put_tiers(const Request *r, const uint16_t *counters, float *to) {
    for (int group = 0; group < r->groups; group++, counters += counters_of_group(r), to += r->tiers)
        for (int tier = 0; tier < r->tiers; tier++)
            to[tier] = r->tier_values[(uint16_t)(counters[tier] - (tier + 1 < r->tiers ? counters[tier + 1] : 0))];
}

INLINE void put_attention(const Request *r, const uint64_t *signature, float *weights, float *to) {
    int padded = (r->attended + 15) / 16 * 16;
    float sum = 0;
    (void)weights;
    for (int place = 0; place < r->attended; place++) {
        int differing = 0;
        for (int word = 0; word < r->words; word++)
            differing += __builtin_popcountll(signature[word] ^ r->attended_words[(long)word * padded + place]);
        sum += to[place] = r->attention[differing];
    }
    float scale = sum > 0 ? 1.0f / sum : 0.0f;
    for (int place = 0; place < r->attended; place++) to[place] *= scale;
}

INLINE int32_t slot_of(const Request *r, int32_t bucket) {
    int32_t found = r->categories;
    /* To the end even where it is found: a loop that may leave is not made of vectors, and where it does is guessed. */
    for (int32_t slot = 0; slot < r->categories; slot++) found = r->category_buckets[slot] == bucket ? slot : found;
    return found;
}

/* Products of CANDIDATES rows with one tile of weights, added to the sums. */
INLINE void multiply(F sums[CANDIDATES][VECTORS], const float *rows, long row, const float *weights, int columns) {
    for (int column = 0; column < columns; column++, weights += TILE) {
        F low = *(const F *)weights, high = *(const F *)(weights + WIDTH);
#pragma GCC unroll 6
        for (int c = 0; c < CANDIDATES; c++) {
            float input = rows[c * row + column];
            sums[c][0] += input * low;
            sums[c][1] += input * high;
        }
    }
}

INLINE F relu(F values) { return (F)((M)values & ~(M)(values < 0)); } /* NaN stays */

INLINE void layers(const Request *r, const uint8_t *records, int count, Scratch *s, const float *signs, float *logits) {
    long columns = r->columns_model + r->columns_user, hidden1 = r->hidden1;
    const float *starts[BLOCK];
    uint64_t factor = bucket_factor(r);
    for (int c = 0; c < BLOCK; c++)
        starts[c] = r->start + hidden1 * (c < count ? category_slot(r, records + (long)c * r->stride, factor) : r->categories);
    for (int tile = 0; tile < hidden1; tile += TILE) {
        const float *of_model = (const float *)r->model_weight + (long)tile * r->columns_model;
        const float *of_user = (const float *)r->user_weight + (long)tile * r->columns_user;
        for (int first = 0; first < count; first += CANDIDATES) {
            F sums[CANDIDATES][VECTORS];
            const float *inputs = s->inputs + first * columns;
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++)
                    sums[c][v] = *(const F *)(starts[first + c] + tile + WIDTH * v) +
                                 *(const F *)(signs + (first + c) * hidden1 + tile + WIDTH * v) *
                                     *(const F *)(r->sign_scale + tile + WIDTH * v);
            multiply(sums, inputs, columns, of_model, r->columns_model);
            multiply(sums, inputs + r->columns_model, columns, of_user, r->columns_user);
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++) {
                F *to = (F *)(s->hidden + (first + c) * hidden1 + tile);
                to[0] = relu(sums[c][0]);
                to[1] = relu(sums[c][1]);
            }
        }
    }
    for (int c = 0; c < count; c++) logits[c] = r->b3;
    for (int tile = 0; tile < r->hidden2; tile += TILE) {
        const float *weights = (const float *)r->weight2 + tile * hidden1;
        for (int first = 0; first < count; first += CANDIDATES) {
            F sums[CANDIDATES][VECTORS];
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++) sums[c][v] = *(const F *)(r->bias2 + tile + WIDTH * v);
            multiply(sums, s->hidden + first * hidden1, hidden1, weights, (int)hidden1);
            const F *weight3 = (const F *)(r->weight3 + tile);
            F outputs[CANDIDATES];
#pragma GCC unroll 6
            for (int c = 0; c < CANDIDATES; c++)
                outputs[c] = relu(sums[c][0]) * weight3[0] + relu(sums[c][1]) * weight3[1];
            for (int c = 0; c < CANDIDATES && first + c < count; c++)
                for (int at = 0; at < WIDTH; at++) logits[first + c] += outputs[c][at];
        }
    }
}
