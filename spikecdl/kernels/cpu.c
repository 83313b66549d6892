#include <stdint.h>

__attribute__((visibility("default"))) int64_t cpu_level(void);

/* Return the number of the best level of `spikecdl.kernels.LEVELS` that this processor has. */
int64_t cpu_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
          __builtin_cpu_supports("bmi2")))
        return 0;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")))
        return 1;
    return 2;
#else
    return 0;
#endif
}
