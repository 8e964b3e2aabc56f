/* The instructions that the compiler takes for granted. */
#define BYTES 16
#include "portable.h"

int aif_score_plain(const Request *request, const uint8_t *rows, const int64_t *places, int64_t count, float *out) {
    return score_rows(request, rows, places, count, out);
}
