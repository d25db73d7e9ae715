/* frontend.h - converts samples to normalized log-mel frames. */
#ifndef FRONTEND_H
#define FRONTEND_H

#include "kernels.h"

#include <stdint.h>

#define N_FFT 512
#define N_MELS 80
#define STRIDE_SAMPLES 160
#define CHUNK_FRAMES 6
#define CHUNK_SAMPLES 960
#define CARRY_MAX (N_FFT - STRIDE_SAMPLES)
#define BINS (N_FFT / 2 + 1)

typedef struct frontend {
    uint32_t window_samples;
    double window[N_FFT];
    double twiddles[N_FFT]; /* cos and -sin of 2 pi k / 512, k < 256 */
    int16_t band[BINS];     /* band whose triangle rises at a bin, -1: none; the previous band's triangle falls there */
    double rising[BINS], falling[BINS];
    float mean[N_MELS];
    float inverse_deviation[N_MELS];
} frontend;

/* Floats that a slot carries from chunk to chunk: the last (window - 160) samples and the one before them. */
uint32_t frontend_carry(const frontend *f);
void frontend_init(frontend *f, uint32_t window_samples, const float *mel_means, const float *mel_variances);
/* One chunk: pcm [960] -> features [6][80]; `carry` is updated. */
void frontend_chunk(const frontend *f, const kernels *k, const int16_t *pcm, float *carry, float *features);

#endif
