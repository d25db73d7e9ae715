/*
 * limits.c - measures the processor's peak speed, to compare a step's time with. Not part of asr_card.h: the bench
 * loads asr_simulator_limits by its name.
 */
#include "card.h"

#include "failure.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MEASURE_NS 100000000ull
#define READ_BYTES (256u << 20)
#define ROWS 12
#define INPUTS 256
#define REPEATS 200

/* Processor time of this thread, in nanoseconds: other threads and processes do not count. */
static uint64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* 8-bit multiply-adds per second with operands in the first-level cache: one panel, again and again. */
static double products(const kernels *k, uint8_t *memory)
{
    linear w = {PANEL, INPUTS, PANEL, INPUTS, NULL, memory, (float *)(void *)(memory + PANEL * INPUTS), NULL};
    float scale[ROWS] = {0}, *out = w.scale + PANEL;
    int32_t sum[ROWS] = {0};
    operand x = {ROWS, out + ROWS * PANEL, scale, sum};
    uint64_t begun = cpu_ns(), rounds = 0;
    while (cpu_ns() - begun < MEASURE_NS) {
        for (int i = 0; i < REPEATS; i++)
            k->matmul_s8(&w, &x, 0, 1, NULL, out, PANEL);
        rounds += REPEATS;
    }
    return (double)rounds * PANEL * INPUTS * ROWS / ((double)(cpu_ns() - begun) * 1e-9);
}

/* Bytes per second that one thread reads from memory. */
static double reads(const uint8_t *memory, uint64_t *sum)
{
    uint64_t begun = cpu_ns(), rounds = 0;
    while (cpu_ns() - begun < MEASURE_NS || rounds == 0) {
        const uint64_t *words = (const uint64_t *)(const void *)memory;
        for (size_t i = 0; i < READ_BYTES / 8; i++)
            *sum += words[i];
        rounds++;
    }
    return (double)rounds * READ_BYTES / ((double)(cpu_ns() - begun) * 1e-9);
}

/* 8-bit multiply-adds and bytes read, each per second of one thread's processor time. */
ASR_CARD_API int32_t asr_simulator_limits(double *multiply_adds, double *bytes)
{
    void *memory = NULL;
    uint64_t sum = 0;
    if (posix_memalign(&memory, 64, READ_BYTES) != 0)
        return fail(ASR_CARD_E_MEMORY, "no memory for the measurement");
    memset(memory, 1, READ_BYTES);
    *bytes = reads(memory, &sum);
    *multiply_adds = products(kernels_choose(NULL), memory) + (double)(sum == 0);
    free(memory);
    return ASR_CARD_OK;
}
