/*
 * frontend.c - converts samples to normalized log-mel frames as NVIDIA DALI does: the networks were trained with it.
 * The Hann window is evaluated at the middle of each sample. The mel filters are triangles, linear in Hz between mel
 * points (Slaney 1998, Auditory Toolbox), each times 2 / its width. Spectra are computed in double precision, so that
 * quiet bands of a loud frame keep their precision.
 */
#include "frontend.h"

#include <math.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

static double mel_of(double hz)
{
    return hz < 1000.0 ? hz / (200.0 / 3.0) : 15.0 + log(hz / 1000.0) / (log(6.4) / 27.0);
}

static double hz_of(double mel)
{
    return mel < 15.0 ? mel * (200.0 / 3.0) : 1000.0 * exp((log(6.4) / 27.0) * (mel - 15.0));
}

static void init_bands(frontend *f)
{
    double edges[N_MELS + 2], top = mel_of(8000.0);
    for (int i = 0; i < N_MELS + 2; i++)
        edges[i] = hz_of(top * i / (N_MELS + 1));
    for (int bin = 0; bin < BINS; bin++) {
        double hz = 16000.0 * bin / N_FFT;
        int band = 0;
        while (band <= N_MELS && hz >= edges[band + 1])
            band++;
        f->rising[bin] = f->falling[bin] = 0.0;
        f->band[bin] = band <= N_MELS ? (int16_t)band : -1;
        if (band > N_MELS) /* 8000 Hz is the end of the last triangle */
            continue;
        double up = (hz - edges[band]) / (edges[band + 1] - edges[band]);
        if (band < N_MELS)
            f->rising[bin] = up * 2.0 / (edges[band + 2] - edges[band]);
        if (band > 0)
            f->falling[bin] = (1.0 - up) * 2.0 / (edges[band + 1] - edges[band - 1]);
    }
}

void frontend_init(frontend *f, uint32_t window_samples, const float *mel_means, const float *mel_variances)
{
    f->window_samples = window_samples;
    for (uint32_t n = 0; n < window_samples; n++)
        f->window[n] = 0.5 * (1.0 - cos(2.0 * PI * (n + 0.5) / window_samples));
    for (int k = 0; k < N_FFT / 2; k++) {
        f->twiddles[2 * k] = cos(2.0 * PI * k / N_FFT);
        f->twiddles[2 * k + 1] = -sin(2.0 * PI * k / N_FFT);
    }
    init_bands(f);
    for (int m = 0; m < N_MELS; m++) {
        f->mean[m] = mel_means[m];
        f->inverse_deviation[m] = (float)(1.0 / sqrt(mel_variances[m]));
    }
}

uint32_t frontend_carry(const frontend *f)
{
    return f->window_samples - STRIDE_SAMPLES + 1;
}

/* Sum the powers of the bins into bands, for all lanes. */
static void add_bands(const frontend *f, const double *power, double *bands)
{
    memset(bands, 0, sizeof(double) * N_MELS * LANES);
    for (int bin = 0; bin < BINS; bin++) {
        int band = f->band[bin];
        const double *from = power + bin * LANES;
        if (band >= 0 && band < N_MELS)
            for (int lane = 0; lane < LANES; lane++)
                bands[band * LANES + lane] += f->rising[bin] * from[lane];
        if (band > 0)
            for (int lane = 0; lane < LANES; lane++)
                bands[(band - 1) * LANES + lane] += f->falling[bin] * from[lane];
    }
}

void frontend_chunk(const frontend *f, const kernels *k, const int16_t *pcm, float *carry, float *features)
{
    float samples[CARRY_MAX + 1 + CHUNK_SAMPLES];
    uint32_t kept = frontend_carry(f);
    memcpy(samples, carry, kept * sizeof(float));
    for (uint32_t n = 0; n < CHUNK_SAMPLES; n++)
        samples[kept + n] = pcm[n] * (1.0f / 32768.0f);
    memcpy(carry, samples + CHUNK_SAMPLES, kept * sizeof(float));
    double sharpened[CARRY_MAX + CHUNK_SAMPLES];
    for (uint32_t n = 0; n < kept - 1 + CHUNK_SAMPLES; n++)
        sharpened[n] = samples[n + 1] - 0.97 * samples[n];

    double time[N_FFT * LANES], power[BINS * LANES], bands[N_MELS * LANES];
    memset(time, 0, sizeof(time));
    for (uint32_t frame = 0; frame < CHUNK_FRAMES; frame++)
        for (uint32_t n = 0; n < f->window_samples; n++)
            time[n * LANES + frame] = f->window[n] * sharpened[frame * STRIDE_SAMPLES + n];
    k->power_spectra(time, f->twiddles, power);
    add_bands(f, power, bands);
    for (uint32_t frame = 0; frame < CHUNK_FRAMES; frame++)
        for (int m = 0; m < N_MELS; m++) {
            double energy = bands[m * LANES + frame];
            float value = logf(energy > 1e-20 ? (float)energy : 1e-20f);
            features[frame * N_MELS + m] = (value - f->mean[m]) * f->inverse_deviation[m];
        }
}
