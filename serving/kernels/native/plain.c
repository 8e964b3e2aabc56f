/* The instructions that the compiler takes for granted. */
#define BYTES 16
#include "portable.h"

int aif_score_plain(const Request *request, const uint8_t *rows, int64_t count, float *out) {
    return score_rows(request, rows, count, out);
}
