/* projector.h - rows of activations times a weight matrix: rounded and packed as the kernels want, then multiplied. */
#ifndef PROJECTOR_H
#define PROJECTOR_H

#include "kernels.h"
#include "pool.h"

typedef struct projector {
    const kernels *k;
    pool *threads;
    int has_bfp; /* activations are rounded to block floating point also where weights were unpacked */
    operand x;
    void *plain; /* prepared rows before they are packed into tiles */
} projector;

/* For up to `rows` rows of up to `inputs` values. */
int32_t projector_init(projector *p, const kernels *k, pool *threads, int has_bfp, uint32_t rows, uint32_t inputs);
void projector_free(projector *p);
/* out[i] = bias + weights x rows[i] for `count` rows, or += without a bias; `out` may be among the rows. */
void project(projector *p, const linear *w, const float *const *rows, uint32_t count, const float *bias, float *out,
             size_t out_stride);

#endif
