/* AVX2 with FMA. */
#include "request.h"

#ifdef AIF_X86
#pragma GCC target("avx2,fma,bmi,bmi2,popcnt")
#define BYTES 32
#include "portable.h"

int aif_score_avx2(const Request *request, const uint8_t *rows, int64_t count, float *out) {
    return score_rows(request, rows, count, out);
}

#endif
