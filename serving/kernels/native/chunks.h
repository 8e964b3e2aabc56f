/* From records to scores, chunk by chunk: tiers counted, signs added up, input rows, layers. The including file defines
 * Input (what an input of the first layer is), and, below its inclusion of this file,
 *
 *   put_halves(to, from, count)              bfloat16 values of a record as inputs
 *   put_attention(r, signature, weights, to) weights of the attended behaviours, of sum 1 or 0
 *   layers(r, records, count, scratch, logits)
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
    float *weights;     /* [attended, padded to 16] of one candidate */
    float *logits;      /* [CHUNK] */
} Scratch;

INLINE void put_halves(Input *to, const uint8_t *from, int count);
INLINE void put_attention(const Request *r, const uint64_t *signature, float *weights, Input *to);
INLINE void layers(const Request *r, const uint8_t *records, int count, Scratch *s, const Sum *signs, float *logits);

/* One candidate's input row. Counters become values by table; a gather instruction would take twice as long. */
INLINE void assemble(const Request *r, const uint8_t *record, const uint64_t *signature, uint16_t *counters,
                     float *weights, Sum *signs, Input *row) {
    Input *tiers = row + r->vector_dim, *bridges = row + r->columns_model, *attention = bridges + r->bridges;
    for (int line = 0; line < r->stride; line += 64) __builtin_prefetch(record + AHEAD * r->stride + line);
    put_halves(row, record + r->vector_at, r->vector_dim);
    put_halves(bridges, record + r->bridges_at, r->bridges);
    if (!(load32(record + r->flags_at) & HAS_SIGNATURE)) {
        memset(tiers, 0, sizeof(Input) * r->groups * r->tiers);
        memset(attention, 0, sizeof(Input) * r->attended);
        memset(signs, 0, sizeof(Sum) * r->hidden1);
        return;
    }
    for (int group = 0; group < r->groups && r->tiers; group++, counters += counters_of_group(r)) {
        counters[0] = (uint16_t)r->totals[group];
        for (int tier = 0; tier < r->tiers; tier++) /* a tier's count is the difference of two edges' */
            *tiers++ = ((const Input *)r->tier_values)[(uint16_t)(counters[tier] - counters[tier + 1])];
    }
    if (r->attended) put_attention(r, signature, weights, attention);
}

INLINE void score_chunk(const Request *r, const uint8_t *rows, int count, Scratch *s, float *out) {
    long columns = r->columns_model + r->columns_user, own = r->groups * counters_of_group(r);
    for (int c = 0; c < count; c++)
        memcpy(s->words + c * r->words, rows + (long)c * r->stride + r->signature_at, 8 * r->words);
    memset(s->counters, 0, sizeof(uint16_t) * own * count);
    if (r->tiers > 1) count_tiers(r, s->words, count, s->tables, s->counters);
    if (r->signs) add_signs(r, s->words, count, s->sign_table, s->signs);
    for (int first = 0; first < count; first += BLOCK) {
        int size = count - first < BLOCK ? count - first : BLOCK;
        const uint8_t *records = rows + (long)first * r->stride;
        for (int c = 0; c < size; c++)
            assemble(r, records + (long)c * r->stride, s->words + (first + c) * r->words,
                     s->counters + (first + c) * own, s->weights, s->signs + (first + c) * r->hidden1,
                     s->inputs + c * columns);
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
