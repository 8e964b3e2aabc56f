/* SimTier without pairs: how many of a user's behaviours are at least as similar to a candidate as each edge says.
 *
 * Behaviours lie across bits: plane k of a block holds bit k of as many behaviours as a vector V has bits. For every three
 * bits of a signature a table holds, for each of their 8 values, the number of equal bits (two planes: ones and twos) of
 * every behaviour. A candidate adds the 21 looked-up numbers of a word with full adders, bit-sliced, compares the sums
 * with the edges, and counts ones: a few cycles for hundreds of behaviours. A word's tables of one block are 22 KB at
 * 512 bits: they stay in L1.
 *
 * The including file defines V (a vector of 64-bit words that can be indexed), LANES, XOR3, MAJORITY, and
 * add_ones(ge, mask, counters), which adds the population of up to EDGES masked vectors to 16-bit counters.
 */

enum { SHIFT = LANES == 8 ? 7 : LANES == 4 ? 6 : 5, MASK = 7 << SHIFT }; /* an entry has 2 V */
enum { ENTRIES = 8, WORD_TABLE = GROUPS_OF_3 * ENTRIES * 2 + 2 };

/* A word's tables of one block: [group][value][ones, twos], then the last bit's two planes. */
INLINE void build_word(const V *plane, V valid, V *table) {
    for (int group = 0; group < GROUPS_OF_3; group++, plane += 3)
        for (int value = 0; value < ENTRIES; value++, table += 2) {
            V a = value & 1 ? plane[0] : ~plane[0];
            V b = value & 2 ? plane[1] : ~plane[1];
            V c = value & 4 ? plane[2] : ~plane[2];
            table[0] = XOR3(a, b, c) & valid;
            table[1] = MAJORITY(a, b, c) & valid;
        }
    table[0] = ~plane[0] & valid;
    table[1] = plane[0] & valid;
}

/* (sum, carry) of three vectors. The sum may replace one of them. */
#define ADD(sum, carry, a, b, c)        \
    do {                                \
        V a_ = (a), b_ = (b), c_ = (c); \
        IN_REGISTER(b_);                \
        IN_REGISTER(c_);                \
        (carry) = MAJORITY(a_, b_, c_); \
        (sum) = XOR3(a_, b_, c_);       \
    } while (0)

/* Adds four groups' numbers to ones and twos; three carries of weight 4 come out. */
#define ADD_4(first, x, y, z)                                                  \
    do {                                                                       \
        V twos_a, twos_b;                                                      \
        ADD(ones, twos_a, ones, ENTRY(first)[0], ENTRY((first) + 1)[0]);       \
        ADD(twos, x, twos, ENTRY(first)[1], ENTRY((first) + 1)[1]);            \
        ADD(ones, twos_b, ones, ENTRY((first) + 2)[0], ENTRY((first) + 3)[0]); \
        ADD(twos, y, twos, ENTRY((first) + 2)[1], ENTRY((first) + 3)[1]);      \
        ADD(twos, z, twos, twos_a, twos_b);                                    \
    } while (0)

/* Three bits of the word, already times the size of an entry: one shift and one mask. The last group comes first in
 * memory order of shifts to the left, where its bits lie too low. */
#define ENTRY(group) ((const V *)((const char *)(table + (group) * ENTRIES * 2) + BITS_OF(group)))
#define BITS_OF(group) (3 * (group) < SHIFT ? word << (SHIFT - 3 * (group)) & MASK : word >> (3 * (group) - SHIFT) & MASK)

/* Equal bits of one word with every behaviour of a block: 7 planes, least significant first. */
INLINE void count_word(const V *table, uint64_t word, V out[7]) {
    V ones = table[GROUPS_OF_3 * ENTRIES * 2 + (word >> 63)];
    V twos, fours = {0}, eights = {0}, x1, y1, z1, x2, y2, z2, a, b, c, d, e, f, carry;
    ADD(ones, twos, ones, ENTRY(20)[0], ones ^ ones);
    /* The 21st group's two stands beside the carry of its one: both of weight 2. */
    x1 = twos & ENTRY(20)[1];
    twos ^= ENTRY(20)[1];
    fours = x1;
    ADD_4(0, x1, y1, z1);
    ADD_4(4, x2, y2, z2);
    ADD(fours, a, fours, x1, y1);
    ADD(fours, b, fours, z1, x2);
    ADD(fours, c, fours, y2, z2);
    ADD_4(8, x1, y1, z1);
    ADD_4(12, x2, y2, z2);
    ADD(fours, d, fours, x1, y1);
    ADD(fours, e, fours, z1, x2);
    ADD(fours, f, fours, y2, z2);
    ADD_4(16, x1, y1, z1);
    ADD(fours, x2, fours, x1, y1);
    y2 = fours & z1;
    fours ^= z1;
    /* Eights: a to f, x2, y2. */
    ADD(eights, x1, a, b, c);
    ADD(eights, y1, eights, d, e);
    ADD(eights, z1, eights, f, x2);
    carry = eights & y2;
    eights ^= y2;
    V sixteens, thirty_a, thirty_b;
    ADD(sixteens, thirty_a, x1, y1, z1);
    thirty_b = sixteens & carry;
    sixteens ^= carry;
    out[0] = ones;
    out[1] = twos;
    out[2] = fours;
    out[3] = eights;
    out[4] = sixteens;
    out[5] = thirty_a ^ thirty_b;
    out[6] = thirty_a & thirty_b;
}

enum { PLANES = 9 }; /* up to 256 equal bits */

/* Equal bits of a whole signature. */
INLINE void count_bits(const V *tables, const uint64_t *signature, int words, V out[PLANES]) {
    V zero = {0};
    count_word(tables, signature[0], out);
    for (int plane = 7; plane < PLANES; plane++) out[plane] = zero;
    for (int word = 1; word < words; word++) {
        V more[7], carry = zero;
        count_word(tables + word * WORD_TABLE, signature[word], more);
        for (int plane = 0; plane < 7; plane++) ADD(out[plane], carry, out[plane], more[plane], carry);
        V left = out[7] & carry;
        out[7] ^= carry;
        out[8] ^= left;
    }
}

/* Which sums reach an edge: the carry out of sum + ~edge + 1. */
INLINE V at_least(const V sums[PLANES], uint32_t edge, int planes) {
    V zero = {0}, reached = ~zero;
    for (int plane = 0; plane < planes; plane++)
        reached = edge >> plane & 1 ? reached & sums[plane] : reached | sums[plane];
    return reached;
}

/* Eight tiers of equal width, a power of two: only the upper planes decide, and no edge need be read. */
INLINE void at_least_8(const V *upper, V ge[EDGES]) {
    V zero = {0}, b0 = upper[0] | upper[3], b1 = upper[1] | upper[3], b2 = upper[2] | upper[3];
    ge[0] = b2 | b1 | b0;
    ge[1] = b2 | b1;
    ge[2] = b2 | (b1 & b0);
    ge[3] = b2;
    ge[4] = b2 & (b1 | b0);
    ge[5] = b2 & b1;
    ge[6] = b2 & b1 & b0;
    ge[7] = zero;
}

/* 16-bit counters of a candidate and group: one for tier 0's edge, then the edges padded to EDGES. */
INLINE int counters_of_group(const Request *r) { return 1 + (r->tiers + EDGES - 1) / EDGES * EDGES; }

/* Adds one block of behaviours to the counters of some candidates ([count][groups][counters_of_group]). `words` and
 * `regular` (eight tiers of equal power-of-two width) are constants where it matters. */
INLINE void count_block(const Request *r, int block, const uint64_t *signatures, int count, V *tables,
                        uint16_t *counters, int words, int regular) {
    const V *masks = (const V *)r->masks + (long)block * r->groups;
    const V *planes = (const V *)r->planes + (long)block * words * 64;
    V valid = masks[0];
    for (int group = 1; group < r->groups; group++) valid |= masks[group];
    for (int word = 0; word < words; word++) build_word(planes + word * 64, valid, tables + word * WORD_TABLE);

    uint32_t used[64];
    int groups = 0, edges = r->tiers - 1, span = counters_of_group(r);
    for (int group = 0; group < r->groups; group++) {
        uint64_t any = 0;
        for (int lane = 0; lane < LANES; lane++) any |= masks[group][lane];
        if (any) used[groups++] = group;
    }
    int sum_planes = words == 1 ? 7 : words == 2 ? 8 : words == 3 ? 8 : 9;
    int upper = words == 1 ? 3 : words == 2 ? 4 : 5;
    for (int candidate = 0; candidate < count; candidate++) {
        V sums[PLANES], ge[EDGES];
        count_bits(tables, signatures + (long)candidate * words, words, sums);
        uint16_t *own = counters + (long)candidate * r->groups * span + 1;
        for (int first = 0; first < edges; first += EDGES) {
            if (regular) {
                at_least_8(sums + upper, ge);
            } else {
                for (int edge = 0; edge < EDGES; edge++)
                    ge[edge] = at_least(sums, first + edge < edges ? r->edges[first + edge] : (1u << PLANES) - 1,
                                        sum_planes);
            }
            for (int group = 0; group < groups; group++)
                add_ones(ge, masks[used[group]], own + used[group] * span + first);
        }
    }
}

static int regular_tiers(const Request *r) {
    int width = r->words * 8, regular = r->tiers == 8 && r->words != 3;
    for (int edge = 1; edge < 8 && regular; edge++) regular = r->edges[edge - 1] == edge * width;
    return regular;
}

/* All blocks of the user's behaviours. `tables` holds words * WORD_TABLE vectors. */
INLINE void count_tiers(const Request *r, const uint64_t *signatures, int count, V *tables, uint16_t *counters) {
    int regular = regular_tiers(r);
    for (int block = 0; block < r->blocks; block++) {
        if (r->words == 1 && regular)
            count_block(r, block, signatures, count, tables, counters, 1, 1);
        else if (r->words == 1)
            count_block(r, block, signatures, count, tables, counters, 1, 0);
        else if (r->words == 2)
            count_block(r, block, signatures, count, tables, counters, 2, regular);
        else if (r->words == 3)
            count_block(r, block, signatures, count, tables, counters, 3, 0);
        else
            count_block(r, block, signatures, count, tables, counters, 4, regular);
    }
}
