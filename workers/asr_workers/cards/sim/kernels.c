/* kernels.c - selects the instruction set. */
#include "kernels.h"

#include <string.h>

static int can(const kernels *set)
{
#if defined(__x86_64__)
    if (set == &kernels_vnni)
        return __builtin_cpu_supports("avx512vnni") && can(&kernels_avx512);
    if (set == &kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && can(&kernels_avx2);
    if (set == &kernels_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return set == &kernels_generic;
}

const kernels *kernels_choose(const char *name)
{
    static const kernels *const sets[] = {
#if defined(__x86_64__)
        &kernels_vnni, &kernels_avx512, &kernels_avx2,
#endif
        &kernels_generic,
    };
    for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
        if ((name == NULL || strcmp(name, sets[i]->name) == 0) && can(sets[i]))
            return sets[i];
    return NULL;
}
