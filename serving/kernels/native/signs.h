/* Linear DIN: a row of weights for every bit of a signature, added where the bit is set and subtracted where it is not.
 *
 * Nothing is multiplied. For every four bits a table has the sums of their rows for each of their 16 values, so that a
 * candidate adds 16 looked-up rows per word instead of 64 products. The table of one word and one tile of columns is half
 * of L1 (32 KB of int16 at 64 columns), is made anew for every chunk, which takes as long as a handful of candidates, and
 * nothing of it is kept with the user.
 *
 * The including file defines Sum, what weights and sums are (int16 counts of `sign_scale`, which cannot overflow, or
 * float), BYTES, and TILE, two vectors of BYTES.
 */

typedef Sum S __attribute__((vector_size(BYTES), aligned(8), may_alias));
enum { NIBBLES = 16, VALUES = 16, SIGN_TABLE = NIBBLES * VALUES * 2 };
enum { ROW_SHIFT = BYTES == 64 ? 7 : BYTES == 32 ? 6 : 5 }; /* a row has 2 S */

/* One word's table ([nibble][value][2]) of weights [64 bits][2]. */
INLINE void build_signs(const S *weights, S *table) {
    for (int nibble = 0; nibble < NIBBLES; nibble++, weights += 8, table += VALUES * 2)
        for (int half = 0; half < 2; half++) {
            S a = weights[half], b = weights[2 + half], c = weights[4 + half], d = weights[6 + half];
            S lower[4] = {-a - b, a - b, b - a, a + b}, upper[4] = {-c - d, c - d, d - c, c + d};
#pragma GCC unroll 16
            for (int value = 0; value < VALUES; value++) table[2 * value + half] = lower[value & 3] + upper[value >> 2];
        }
}

/* Row of a nibble's value. The value is taken out of the word already times the size of a row: one shift and one mask. */
#define ROW(nibble) ((const S *)((const char *)(table + (nibble) * VALUES * 2) + VALUE_OF(nibble)))
#define VALUE_OF(nibble) \
    ((4 * (nibble) < ROW_SHIFT ? bits << (ROW_SHIFT - 4 * (nibble)) : bits >> (4 * (nibble) - ROW_SHIFT)) & 15 << ROW_SHIFT)

/* Sums of `count` candidates ([count][hidden1]) from their signatures ([count][words]). */
INLINE void add_signs(const Request *r, const uint64_t *signatures, int count, S *table, Sum *sums) {
    const S *weights = r->sign_weight;
    for (int tile = 0; tile < r->hidden1; tile += TILE)
        for (int word = 0; word < r->words; word++, weights += 64 * 2) {
            build_signs(weights, table);
            for (int c = 0; c < count; c++) {
                S *own = (S *)(sums + (long)c * r->hidden1 + tile), low = {0}, high = {0};
                uint64_t bits = signatures[(long)c * r->words + word];
                if (word) low = own[0], high = own[1];
#pragma GCC unroll 16
                for (int nibble = 0; nibble < NIBBLES; nibble++) {
                    const S *row = ROW(nibble);
                    low += row[0];
                    high += row[1];
                }
                own[0] = low;
                own[1] = high;
            }
        }
}
