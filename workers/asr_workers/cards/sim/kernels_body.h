/*
 * kernels_body.h - functions that compilers vectorize well, inlined into the functions of each instruction set.
 * Loops over `lane` become vector registers. The order of sums is fixed, so no -ffast-math is needed.
 */
#ifndef KERNELS_BODY_H
#define KERNELS_BODY_H

#include "kernels.h"

#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define WIDTH 16

/* exp to about 1e-7 relative, for -87 <= x <= 88 after clamping. */
INLINE float exp_body(float x)
{
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float rounded = x * 1.44269504f + magic;
    uint32_t bits; /* any, where x is no number */
    memcpy(&bits, &rounded, 4);
    float n = rounded - magic;
    float r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t exponent = (bits - 0x4B400000u + 127u) << 23;
    float power;
    memcpy(&power, &exponent, 4);
    return p * power;
}

INLINE float sigmoid_body(float x)
{
    return 1.0f / (1.0f + exp_body(-x));
}

INLINE float tanh_body(float x)
{
    return 1.0f - 2.0f / (1.0f + exp_body(2.0f * x));
}

INLINE void lstm_cell_body(const float *restrict gates, uint32_t hidden, float *restrict c, float *restrict h,
                           float *restrict out)
{
    const float *restrict input = gates, *restrict forget = gates + hidden;
    const float *restrict candidate = gates + 2 * (size_t)hidden, *restrict output = gates + 3 * (size_t)hidden;
    for (uint32_t j = 0; j < hidden; j++) {
        float cell = sigmoid_body(forget[j]) * c[j] + sigmoid_body(input[j]) * tanh_body(candidate[j]);
        float value = sigmoid_body(output[j]) * tanh_body(cell);
        c[j] = cell;
        h[j] = value;
        out[j] = value;
    }
}

INLINE void add_relu_body(const float *restrict a, const float *restrict b, uint32_t count, float *restrict out)
{
    for (uint32_t j = 0; j < count; j++) {
        float sum = a[j] + b[j];
        out[j] = sum > 0.0f ? sum : 0.0f;
    }
}

INLINE float max_body(const float *x, uint32_t count, int is_absolute)
{
    float best[WIDTH];
    for (int lane = 0; lane < WIDTH; lane++)
        best[lane] = is_absolute ? 0.0f : -INFINITY;
    uint32_t whole = count / WIDTH * WIDTH;
    for (uint32_t j = 0; j < whole; j += WIDTH)
        for (int lane = 0; lane < WIDTH; lane++) {
            float value = is_absolute ? fabsf(x[j + lane]) : x[j + lane];
            best[lane] = value > best[lane] ? value : best[lane];
        }
    float most = best[0];
    for (int lane = 1; lane < WIDTH; lane++)
        most = best[lane] > most ? best[lane] : most;
    for (uint32_t j = whole; j < count; j++) {
        float value = is_absolute ? fabsf(x[j]) : x[j];
        most = value > most ? value : most;
    }
    return most;
}

INLINE uint32_t argmax_body(const float *x, uint32_t count)
{
    float most = max_body(x, count, 0);
    uint32_t whole = count / WIDTH * WIDTH, j = 0;
    for (; j < whole; j += WIDTH) {
        int found = 0;
        for (int lane = 0; lane < WIDTH; lane++)
            found |= x[j + lane] == most;
        if (found)
            break;
    }
    for (; j < count; j++)
        if (x[j] == most)
            return j;
    return count - 1; /* reached only if all values are NaN */
}

INLINE float log_sum_exp_body(const float *x, uint32_t count, float shift)
{
    float sums[WIDTH] = {0};
    uint32_t whole = count / WIDTH * WIDTH;
    for (uint32_t j = 0; j < whole; j += WIDTH)
        for (int lane = 0; lane < WIDTH; lane++)
            sums[lane] += exp_body(x[j + lane] - shift);
    double sum = 0;
    for (int lane = 0; lane < WIDTH; lane++)
        sum += sums[lane];
    for (uint32_t j = whole; j < count; j++)
        sum += exp_body(x[j] - shift);
    return (float)log(sum);
}

INLINE void quantize_body(const float *restrict x, uint32_t count, uint32_t padded, int8_t *restrict q,
                          float *restrict scale, int32_t *restrict sum)
{
    const float magic = 12582912.0f;
    float most = max_body(x, count, 1);
    float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    int32_t total = 0;
    for (uint32_t j = 0; j < count; j++) {
        float rounded = x[j] * inverse + magic;
        uint32_t bits; /* any, where x is no number */
        memcpy(&bits, &rounded, 4);
        int8_t value = (int8_t)(bits - 0x4B400000u);
        q[j] = value;
        total += value;
    }
    for (uint32_t j = count; j < padded; j++)
        q[j] = 0;
    *scale = most / 127.0f;
    *sum = total;
}

/* Quantum of a block: 2^(exponent of the largest value - 6), or 0 if that is too small for a float. */
INLINE float quantum_body(const float x[8])
{
    uint32_t most = 0;
    for (int i = 0; i < 8; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7F800000u;
        most = bits > most ? bits : most;
    }
    most = most > 6u << 23 ? most - (6u << 23) : 0;
    float quantum;
    memcpy(&quantum, &most, 4);
    return quantum;
}

INLINE float bfp_mantissa_body(float x, float inverse)
{
    const float magic = 12582912.0f;
    float q = (x * inverse + magic) - magic;
    q = q > 127.0f ? 127.0f : q;
    return q > -127.0f ? q : -127.0f; /* this order of the comparison turns NaN into a number */
}

INLINE void quantize_bfp_body(const float *restrict x, uint32_t count, bfp_block *restrict blocks)
{
    for (uint32_t at = 0; at < count; at += 8, blocks++) {
        float values[8] = {0};
        memcpy(values, x + at, (count - at < 8 ? count - at : 8) * sizeof(float));
        float quantum = quantum_body(values), inverse = quantum > 0.0f ? 1.0f / quantum : 0.0f;
        int32_t sum = 0;
        for (int i = 0; i < 8; i++) {
            int32_t q = (int32_t)bfp_mantissa_body(values[i], inverse);
            blocks->q[i] = (int8_t)q;
            sum += q;
        }
        blocks->offset = -128 * sum;
        blocks->quantum = quantum;
    }
}

INLINE void round_bfp_body(const float *restrict x, uint32_t count, float *restrict out)
{
    for (uint32_t at = 0; at < count; at += 8) {
        uint32_t size = count - at < 8 ? count - at : 8;
        float values[8] = {0};
        memcpy(values, x + at, size * sizeof(float));
        float quantum = quantum_body(values), inverse = quantum > 0.0f ? 1.0f / quantum : 0.0f;
        for (int i = 0; i < 8; i++)
            values[i] = bfp_mantissa_body(values[i], inverse) * quantum;
        memcpy(out + at, values, size * sizeof(float));
    }
}

/* A real FFT of 512 points: a complex FFT of 256 points (even samples real, odd imaginary), whose result is split. */
INLINE void power_spectra_body(double *restrict time, const double *restrict twiddles, double *restrict power)
{
    /* Bit reversal of 8 bits; a complex point is two rows of LANES. */
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t j = 0;
        for (int bit = 0; bit < 8; bit++)
            j |= (i >> bit & 1u) << (7 - bit);
        if (j > i)
            for (int lane = 0; lane < 2 * LANES; lane++) {
                double kept = time[i * 2 * LANES + lane];
                time[i * 2 * LANES + lane] = time[j * 2 * LANES + lane];
                time[j * 2 * LANES + lane] = kept;
            }
    }
    for (uint32_t half = 1; half < 256; half *= 2)
        for (uint32_t start = 0; start < 256; start += 2 * half)
            for (uint32_t k = 0; k < half; k++) {
                /* exp(-2 pi i k / (2 half)): every 512 / (2 half)-th of the table. */
                double re = twiddles[2 * (k * 256 / half)], im = twiddles[2 * (k * 256 / half) + 1];
                double *restrict a = time + (size_t)(start + k) * 2 * LANES;
                double *restrict b = time + (size_t)(start + k + half) * 2 * LANES;
                for (int lane = 0; lane < LANES; lane++) {
                    double x = b[lane] * re - b[LANES + lane] * im;
                    double y = b[lane] * im + b[LANES + lane] * re;
                    b[lane] = a[lane] - x;
                    b[LANES + lane] = a[LANES + lane] - y;
                    a[lane] += x;
                    a[LANES + lane] += y;
                }
            }
    for (uint32_t k = 0; k <= 256; k++) {
        const double *a = time + (size_t)(k % 256) * 2 * LANES;
        const double *b = time + (size_t)((256 - k) % 256) * 2 * LANES;
        double re = k < 256 ? twiddles[2 * k] : -1.0, im = k < 256 ? twiddles[2 * k + 1] : 0.0;
        for (int lane = 0; lane < LANES; lane++) {
            double even_re = 0.5 * (a[lane] + b[lane]), even_im = 0.5 * (a[LANES + lane] - b[LANES + lane]);
            double odd_re = 0.5 * (a[LANES + lane] + b[LANES + lane]), odd_im = 0.5 * (b[lane] - a[lane]);
            double x = even_re + odd_re * re - odd_im * im;
            double y = even_im + odd_re * im + odd_im * re;
            power[k * LANES + lane] = x * x + y * y;
        }
    }
}

/* The functions of one instruction set, under names that end in `suffix`. */
#define ELEMENTWISE_KERNELS(suffix, attributes)                                                                        \
    attributes static void quantize_##suffix(const float *x, uint32_t count, uint32_t padded, int8_t *q, float *scale, \
                                             int32_t *sum)                                                             \
    {                                                                                                                  \
        quantize_body(x, count, padded, q, scale, sum);                                                                \
    }                                                                                                                  \
    attributes static void quantize_bfp_##suffix(const float *x, uint32_t count, bfp_block *blocks)                    \
    {                                                                                                                  \
        quantize_bfp_body(x, count, blocks);                                                                           \
    }                                                                                                                  \
    attributes static void round_bfp_##suffix(const float *x, uint32_t count, float *out)                              \
    {                                                                                                                  \
        round_bfp_body(x, count, out);                                                                                 \
    }                                                                                                                  \
    attributes static void lstm_cell_##suffix(const float *gates, uint32_t hidden, float *c, float *h, float *out)     \
    {                                                                                                                  \
        lstm_cell_body(gates, hidden, c, h, out);                                                                      \
    }                                                                                                                  \
    attributes static void add_relu_##suffix(const float *a, const float *b, uint32_t count, float *out)               \
    {                                                                                                                  \
        add_relu_body(a, b, count, out);                                                                               \
    }                                                                                                                  \
    attributes static uint32_t argmax_##suffix(const float *x, uint32_t count)                                         \
    {                                                                                                                  \
        return argmax_body(x, count);                                                                                  \
    }                                                                                                                  \
    attributes static float log_sum_exp_##suffix(const float *x, uint32_t count, float shift)                          \
    {                                                                                                                  \
        return log_sum_exp_body(x, count, shift);                                                                      \
    }                                                                                                                  \
    attributes static void power_spectra_##suffix(double *time, const double *twiddles, double *power)                 \
    {                                                                                                                  \
        power_spectra_body(time, twiddles, power);                                                                     \
    }

/* Those functions as members of kernels. */
#define ELEMENTWISE_MEMBERS(suffix)                                                                                    \
    .quantize = quantize_##suffix, .quantize_bfp = quantize_bfp_##suffix, .round_bfp = round_bfp_##suffix,             \
    .lstm_cell = lstm_cell_##suffix, .add_relu = add_relu_##suffix, .argmax = argmax_##suffix,                         \
    .log_sum_exp = log_sum_exp_##suffix, .power_spectra = power_spectra_##suffix

#endif
