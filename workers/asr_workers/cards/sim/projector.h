/* projector.h - rows of activations times a weight matrix: rounded and packed for the kernels, then multiplied. */
#ifndef PROJECTOR_H
#define PROJECTOR_H

#include "kernels.h"
#include "pool.h"

typedef struct projector {
    const kernels *k;
    pool *threads;
    int has_bfp; /* round activations to block floating point, also if the weights were unpacked */
    operand x;
    void *plain; /* prepared rows before they are packed into tiles */
} projector;

/* Allocate the buffers for up to `rows` rows of up to `inputs` values. */
int32_t projector_init(projector *p, const kernels *k, pool *threads, int has_bfp, uint32_t rows, uint32_t inputs);
void projector_free(projector *p);
/* out[i] = bias + weights x rows[i] for `count` rows, or += without a bias; `out` may overlap the rows. */
void project(projector *p, const linear *w, const float *const *rows, uint32_t count, const float *bias, float *out,
             size_t out_stride);

#endif
