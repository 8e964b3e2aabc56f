/* Which variants run on this processor, and what the library says of itself. */
#include "request.h"

int32_t aif_abi(void) { return AIF_ABI; }

int64_t aif_request_bytes(void) { return sizeof(Request); }

/* 1 where the processor has what a variant needs: 0 plain, 1 AVX2, 2 AVX-512 with
 * bfloat16, 3 AVX-512 with int8. */
int32_t aif_runs(int32_t variant) {
#ifdef AIF_X86
    __builtin_cpu_init();
    if (variant == 1)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
               __builtin_cpu_supports("popcnt");
    if (variant == 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vpopcntdq") &&
               __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("bmi2");
    if (variant == 3)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vpopcntdq") &&
               __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("bmi2");
#endif
    return variant == 0;
}

/* Bits of behaviours' signatures laid across: [count][words] -> planes [blocks][words][64][lanes], zeros at first. */
void aif_planes(const uint64_t *signatures, int64_t count, int32_t words, int32_t lanes, uint64_t *planes) {
    for (int64_t behaviour = 0; behaviour < count; behaviour++) {
        int64_t block = behaviour / (64 * lanes), at = behaviour % (64 * lanes);
        for (int32_t word = 0; word < words; word++) {
            uint64_t *plane = planes + ((block * words + word) * 64) * lanes + at / 64;
            uint64_t bits = signatures[behaviour * words + word];
            for (int bit = 0; bit < 64; bit++, bits >>= 1) plane[bit * lanes] |= (bits & 1) << (at % 64);
        }
    }
}
