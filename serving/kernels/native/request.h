/* What the three variants share: the arguments of a call, sizes of blocks, and the logistic function.
 *
 * A `Request` is everything of one user and model in the form that one variant wants; serving/kernels/native.py builds
 * it and keeps its arrays alive. Columns of the first layer stand in two parts, each padded with zeros to as many as one
 * multiplication takes: [vector] with weights of the model, and [tiers by group | bridges | attention] with weights that
 * are packed for the user. Signs of bits have weights apart (signs.h), in the order of a little-endian word's bits.
 */
#ifndef AIF_REQUEST_H
#define AIF_REQUEST_H

#include <stdint.h>

/* Changes with the meaning of anything here; native.py refuses a library of another number. */
#define AIF_ABI 3

enum {
    CHUNK = 960,    /* candidates whose tiers and signs are added up together: their sums and one table stay in L1 or L2 */
    BLOCK = 48,     /* candidates in the layers at a time: their input rows and one tile of weights stay in L1 */
    CANDIDATES = 6, /* candidates of one register tile; divides BLOCK */
    EDGES = 8,      /* edges between tiers counted in one pass */
    MAX_WORDS = 4,  /* 64-bit words of a signature */
    GROUPS_OF_3 = 21,
};

enum { HAS_CATEGORY = 2, HAS_SIGNATURE = 8 };

typedef struct {
    /* Offsets of fields in a record, bytes. */
    int32_t stride, vector_at, bridges_at, signature_at, flags_at, category_at;
    /* Sizes of the model. `hidden1` and `hidden2` are padded to whole tiles. */
    int32_t vector_dim, bridges, words, tiers, groups, hidden1, hidden2, buckets;
    /* Sizes of the user. `blocks`: of behaviours' bit planes; `attended`: behaviours with a signature. */
    int32_t blocks, attended, categories, columns_model, columns_user, signs; /* `signs`: 1 with linear DIN */
    float b3, tier_scale; /* of a tier's log1p as an input */
    /* Of the model. */
    const void *model_weight;          /* [tile][columns_model][columns of a tile], see pack in native.py */
    const void *weight2;               /* [tile][hidden1][columns of a tile] */
    const float *bias2;                /* [hidden2] */
    const float *weight3;              /* [hidden2] */
    const float *attention;            /* [64 words + 1] weight by *differing* bits */
    const uint16_t *edges;             /* [tiers - 1] equal bits from which tiers 1, 2, ... begin */
    const float *model_scale;          /* int8: [hidden1] what a one of the sums over the vector is worth */
    const int32_t *model_start;        /* int8: [hidden1] where those sums start, see avx512_int8.c */
    const float *scale2;               /* int8: [hidden2] what a one of the second layer's sums is worth */
    /* Of the user. */
    const void *user_weight;           /* [tile][columns_user][columns of a tile] */
    const float *user_scale;           /* int8: [hidden1] what a one of the sums over the user's columns is worth */
    const void *sign_weight;           /* [tile][words * 64][columns of a tile] int16 or float, see signs.h */
    const float *sign_scale;           /* [hidden1] what a one of the sums of signs is worth */
    const float *start;                /* [categories + 1][hidden1] bias plus each category's row, the last one bias alone */
    const int32_t *category_buckets;   /* [categories] */
    const uint64_t *planes;            /* [blocks][words][64][lanes] */
    const uint64_t *masks;             /* [blocks][groups][lanes]: which behaviours a group counts */
    const int32_t *totals;             /* [groups] */
    const float *tier_values;          /* [largest of totals + 1] log1p of a count */
    const uint64_t *attended_words;    /* [words][attended, padded to 16] */
} Request;

/* Scores `count` records into `out`; returns 0, or -1 where memory for the blocks is refused. */
typedef int Score(const Request *request, const uint8_t *rows, int64_t count, float *out);

int aif_score_plain(const Request *request, const uint8_t *rows, int64_t count, float *out);
int aif_score_avx2(const Request *request, const uint8_t *rows, int64_t count, float *out);
int aif_score_avx512(const Request *request, const uint8_t *rows, int64_t count, float *out);
int aif_score_avx512_int8(const Request *request, const uint8_t *rows, int64_t count, float *out);

/* Code for x86 needs GCC's way of choosing instructions per file and function. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define AIF_X86 1
#endif

#define INLINE static inline __attribute__((always_inline))

INLINE uint64_t load64(const uint8_t *at) {
    uint64_t value;
    __builtin_memcpy(&value, at, 8);
    return value;
}

INLINE uint32_t load32(const uint8_t *at) {
    uint32_t value;
    __builtin_memcpy(&value, at, 4);
    return value;
}

/* exp of -87..0 to 2 units in the last place; NaN stays NaN. */
INLINE float exp_below_0(float x) {
    x = x < -87.0f ? -87.0f : x;
    float whole = __builtin_floorf(x * 1.44269504f + 0.5f);
    float rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    float power = 1.9875691500e-4f;
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    power = power * rest * rest + rest + 1.0f;
    union { int32_t bits; float value; } scale = {(int32_t)((uint32_t)((int32_t)whole + 127) << 23)};
    return power * scale.value;
}

INLINE float logistic(float logit) {
    float small = exp_below_0(logit < 0 ? logit : -logit);
    return (logit < 0 ? small : 1.0f) / (1.0f + small);
}

#endif
