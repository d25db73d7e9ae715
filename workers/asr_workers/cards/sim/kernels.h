/*
 * kernels.h - the arithmetic of the network, one set of functions per instruction set, chosen at run time.
 *
 * A result never depends on which other rows are in the batch: every output is summed over the inputs in their order.
 */
#ifndef KERNELS_H
#define KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define PANEL 32 /* outputs that lie together in packed weights */
#define LANES 8  /* frames that the front end transforms at once; a chunk has six */

/* A weight matrix, outputs x inputs, packed in panels of 32 outputs. */
typedef struct linear {
    uint32_t outputs;
    uint32_t inputs;
    uint32_t outputs_padded; /* to PANEL */
    uint32_t inputs_padded;  /* to 4, bfp16 to 8 */
    float *f32;              /* [panel][input][32], or NULL */
    uint8_t *u8;             /* int8, bfp16: [panel][input / 4][32][4], each weight + 128 */
    float *scale;            /* int8: [outputs_padded] */
    uint8_t *exponent;       /* bfp16: [panel][input / 8][32], of the quantum, biased by 127 */
} linear;

/* Rows of activations in the layout that a linear needs. Without a rows_max in the kernels, rows are contiguous. With
 * one, tiles of tile_rows() rows are contiguous, and a tile is [unit][row], with units of 4 bytes or a bfp_block. */
typedef struct operand {
    uint32_t rows;
    void *values; /* float, int8_t or bfp_block; inputs_padded values in each row */
    float *scale; /* int8: [rows] */
    int32_t *sum; /* int8: [rows], the sum of a row's values, to remove the 128 that the weights contain */
} operand;

/* Eight activations that share an exponent. */
typedef struct bfp_block {
    int8_t q[8];
    int32_t offset; /* -128 times their sum */
    float quantum;
} bfp_block;

typedef struct kernels {
    const char *name;
    uint32_t rows_max_f32, rows_max_s8, rows_max_bfp; /* most rows of a tile; 0: contiguous rows, no tiles */
    /* out[row][output] = bias[output] + products, or += products if bias is NULL; for the panels from .. to - 1. */
    void (*matmul_f32)(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                       float *out, size_t out_stride);
    void (*matmul_s8)(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                      float *out, size_t out_stride);
    /* If NULL, bfp16 weights are unpacked to fp32, and activations are rounded by round_bfp. */
    void (*matmul_bfp)(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                       float *out, size_t out_stride);
    /* Symmetric 8 bit with one scale for the row; q is filled up to `padded` with zeros. */
    void (*quantize)(const float *x, uint32_t count, uint32_t padded, int8_t *q, float *scale, int32_t *sum);
    /* Block floating point: convert `count` values to blocks of 8, or round them to the values of such blocks. */
    void (*quantize_bfp)(const float *x, uint32_t count, bfp_block *blocks);
    void (*round_bfp)(const float *x, uint32_t count, float *out);
    /* One LSTM cell: gates i, f, g, o of `hidden` each; c and h are updated, h also goes to `out`. */
    void (*lstm_cell)(const float *gates, uint32_t hidden, float *c, float *h, float *out);
    void (*add_relu)(const float *a, const float *b, uint32_t count, float *out);
    uint32_t (*argmax)(const float *x, uint32_t count);
    /* ln(sum(exp(x - shift))) */
    float (*log_sum_exp)(const float *x, uint32_t count, float shift);
    /* Power spectra of LANES real frames: time [512][LANES] is overwritten, power is [257][LANES]. */
    void (*power_spectra)(double *time, const double *twiddles, double *power);
} kernels;

/* Rows of a tile: the rows are divided into tiles as equally as possible, so that the last tile is not small. */
static inline uint32_t tile_rows(uint32_t rows, uint32_t most)
{
    uint32_t tiles = (rows + most - 1) / most;
    return (rows + tiles - 1) / tiles;
}

/* The best set for this processor, or the one with this name ("generic", "avx2", "avx512", "vnni"); NULL if the
 * processor does not support it. */
const kernels *kernels_choose(const char *name);

extern const kernels kernels_generic;
#if defined(__x86_64__)
extern const kernels kernels_avx2;
extern const kernels kernels_avx512;
extern const kernels kernels_vnni;
#endif

#endif
