/* From records to scores, chunk by chunk: tiers counted, signs added up, input rows, layers. The including file defines
 * Input (what an input of the first layer is), and, below its inclusion of this file,
 *
 *   put_record(r, record, vector, bridges)   both as inputs; what one unit of the vector's is worth
 *   put_tiers(r, counters, to)               log1p of counts; a count is the difference of two edges' counters
 *   put_attention(r, signature, weights, to) weights of the attended behaviours, of sum 1 or 0
 *   slot_of(r, bucket)                       which of the user's categories a bucket is, or their number
 *   layers(r, records, count, scratch, signs, logits)
 */
#include <stdlib.h>
#include <string.h>

enum { AHEAD = 4 }; /* records that are fetched ahead */

typedef struct {
    V *tables;          /* [words][WORD_TABLE] */
    uint64_t *words;    /* [CHUNK][words] signatures of the chunk's candidates */
    uint16_t *counters; /* [CHUNK][groups][counters_of_group] */
    S *sign_table;      /* [SIGN_TABLE] */
    Sum *signs;         /* [CHUNK][hidden1] sums of signs times weights */
    Input *inputs;      /* [BLOCK][columns] */
    Input *hidden;      /* [BLOCK][hidden1] */
    uint8_t *signed_;   /* [BLOCK] 1 where a candidate has a signature */
    float *units;       /* [BLOCK] what a unit of a candidate's vector is worth */
    float *values;      /* [BLOCK][hidden1] of the first layer, before they are rounded to inputs of the second */
    float *weights;     /* [attended, padded to 16] of one candidate */
    float *logits;      /* [CHUNK] */
} Scratch;

INLINE float put_record(const Request *r, const uint8_t *record, Input *vector, Input *bridges);
INLINE void put_tiers(const Request *r, const uint16_t *counters, Input *to);
INLINE void put_attention(const Request *r, const uint64_t *signature, float *weights, Input *to);
INLINE int32_t slot_of(const Request *r, int32_t bucket);
INLINE void layers(const Request *r, const uint8_t *records, int count, Scratch *s, const Sum *signs, float *logits);

/* Input rows of a block. One kind of input after the other: each is a chain of steps that wait for one another, and the
 * processor overlaps those of several candidates only where a candidate's are few. Without a signature all but vector and
 * bridges is zeros. */
INLINE void assemble(const Request *r, const uint8_t *records, int count, const uint64_t *signatures,
                     const uint16_t *counters, Scratch *s, Sum *signs) {
    long columns = r->columns_model + r->columns_user;
    int tiers = r->groups * r->tiers, span = counters_of_group(r);
    Input *user = s->inputs + r->columns_model, *attention = user + tiers + r->bridges;
    for (int c = 0; c < count; c++) {
        const uint8_t *record = records + (long)c * r->stride;
        for (int line = 0; line < r->stride; line += 64) __builtin_prefetch(record + AHEAD * r->stride + line);
        s->units[c] = put_record(r, record, s->inputs + c * columns, user + c * columns + tiers);
        s->signed_[c] = (load32(record + r->flags_at) & HAS_SIGNATURE) != 0;
    }
    for (int c = 0; c < count && tiers; c++) {
        Input *to = user + c * columns;
        if (!s->signed_[c]) memset(to, 0, sizeof(Input) * tiers);
        if (!s->signed_[c]) continue;
        const uint16_t *own = counters + (long)c * r->groups * span;
        put_tiers(r, own, to);
    }
    for (int c = 0; c < count && r->attended; c++) {
        if (s->signed_[c])
            put_attention(r, signatures + c * r->words, s->weights, attention + c * columns);
        else
            memset(attention + c * columns, 0, sizeof(Input) * r->attended);
    }
    for (int c = 0; c < count; c++)
        if (!s->signed_[c]) memset(signs + c * r->hidden1, 0, sizeof(Sum) * r->hidden1);
}

/* What category_slot divides by, as a factor: a division takes as long as twenty multiplications. */
INLINE uint64_t bucket_factor(const Request *r) { return UINT64_MAX / (uint32_t)(r->buckets - 1); }

/* The user's category that a record belongs to, or the number of categories: domain/item_features.category_buckets. */
INLINE int32_t category_slot(const Request *r, const uint8_t *record, uint64_t factor) {
    if (!(load32(record + r->flags_at) & HAS_CATEGORY)) return r->categories;
    uint64_t mixed = load64(record + r->category_at) * 0x9E3779B97F4A7C15u, divisor = (uint32_t)(r->buckets - 1);
    mixed ^= mixed >> 32;
    uint64_t rest = mixed - (uint64_t)((unsigned __int128)mixed * factor >> 64) * divisor; /* below 2 * divisor */
    return slot_of(r, 1 + (int32_t)(rest < divisor ? rest : rest - divisor));
}

INLINE void score_chunk(const Request *r, const uint8_t *rows, int count, Scratch *s, float *out) {
    long own = r->groups * counters_of_group(r);
    for (int c = 0; c < count; c++)
        memcpy(s->words + c * r->words, rows + (long)c * r->stride + r->signature_at, 8 * r->words);
    memset(s->counters, 0, sizeof(uint16_t) * own * count);
    for (int c = 0; c < count; c++)
        for (int group = 0; group < r->groups; group++)
            s->counters[c * own + group * counters_of_group(r)] = (uint16_t)r->totals[group];
    if (r->tiers > 1) count_tiers(r, s->words, count, s->tables, s->counters);
    if (r->signs) add_signs(r, s->words, count, s->sign_table, s->signs);
    for (int first = 0; first < count; first += BLOCK) {
        int size = count - first < BLOCK ? count - first : BLOCK;
        const uint8_t *records = rows + (long)first * r->stride;
        assemble(r, records, size, s->words + first * r->words, s->counters + first * own, s, s->signs + first * r->hidden1);
        layers(r, records, size, s, s->signs + first * r->hidden1, s->logits + first);
    }
    for (int c = 0; c < count; c++) out[c] = logistic(s->logits[c]);
}

/* The next part of some memory, on a line of the cache. */
INLINE void *part(uint8_t **next, long bytes) {
    void *here = *next;
    *next += (bytes + 63) / 64 * 64;
    return here;
}

/* Lays the buffers out from `memory` on; returns how many bytes they take. */
INLINE long lay_out(const Request *r, uint8_t *memory, Scratch *s) {
    uint8_t *next = memory;
    s->tables = part(&next, (long)sizeof(V) * r->words * WORD_TABLE);
    s->words = part(&next, 8L * CHUNK * r->words);
    s->counters = part(&next, 2L * CHUNK * r->groups * counters_of_group(r));
    s->sign_table = part(&next, (long)sizeof(S) * SIGN_TABLE);
    s->signs = part(&next, (long)sizeof(Sum) * CHUNK * r->hidden1);
    s->inputs = part(&next, (long)sizeof(Input) * BLOCK * (r->columns_model + r->columns_user));
    s->hidden = part(&next, (long)sizeof(Input) * BLOCK * r->hidden1);
    s->signed_ = part(&next, BLOCK);
    s->units = part(&next, 4L * BLOCK);
    s->values = part(&next, sizeof(Input) == 1 ? 4L * BLOCK * r->hidden1 : 0);
    s->weights = part(&next, 4L * r->attended + 64);
    s->logits = part(&next, 4L * CHUNK);
    return next - memory;
}

INLINE int score_rows(const Request *r, const uint8_t *rows, int64_t count, float *out) {
    Scratch scratch;
    uint8_t *memory = aligned_alloc(64, lay_out(r, 0, &scratch));
    if (!memory) return -1;
    lay_out(r, memory, &scratch);
    /* Columns of padding are never written; nor are sums of signs without linear DIN. */
    memset(scratch.inputs, 0, sizeof(Input) * BLOCK * (r->columns_model + r->columns_user));
    if (!r->signs) memset(scratch.signs, 0, sizeof(Sum) * CHUNK * r->hidden1);
    for (int64_t first = 0; first < count; first += CHUNK) {
        int size = count - first < CHUNK ? (int)(count - first) : CHUNK;
        score_chunk(r, rows + first * r->stride, size, &scratch, out + first);
    }
    free(memory);
    return 0;
}
