/* projector.c - rows of activations times a weight matrix. */
#include "projector.h"

#include "asr_card.h"
#include "carmfile.h"
#include "failure.h"

#include <stdlib.h>
#include <string.h>

/* The layout of a matrix's operand: the size of a row, and how rows are packed. */
typedef struct layout {
    uint32_t rows_max; /* of a tile; 0: plain rows */
    size_t unit;       /* bytes that stay together when rows are packed into tiles */
    size_t stride;     /* bytes of a row */
} layout;

static layout layout_of(const kernels *k, const linear *w)
{
    if (w->exponent != NULL)
        return (layout){k->rows_max_bfp, sizeof(bfp_block), w->inputs_padded / 8 * sizeof(bfp_block)};
    if (w->u8 != NULL)
        return (layout){k->rows_max_s8, 4, w->inputs_padded};
    return (layout){k->rows_max_f32, 4, w->inputs_padded * sizeof(float)};
}

typedef struct preparation {
    projector *p;
    const float *const *rows;
    const linear *w;
    layout l;
    uint32_t tile;
} preparation;

static void prepare_rows(void *context, uint32_t from, uint32_t to)
{
    const preparation *task = context;
    projector *p = task->p;
    const linear *w = task->w;
    for (uint32_t row = from; row < to; row++) {
        uint8_t *out = (uint8_t *)(task->tile ? p->plain : p->x.values) + row * task->l.stride;
        float *plain = (float *)(void *)out;
        if (w->exponent != NULL)
            p->k->quantize_bfp(task->rows[row], w->inputs, (bfp_block *)(void *)out);
        else if (w->u8 != NULL)
            p->k->quantize(task->rows[row], w->inputs, w->inputs_padded, (int8_t *)out, p->x.scale + row,
                           p->x.sum + row);
        else {
            if (p->has_bfp)
                p->k->round_bfp(task->rows[row], w->inputs, plain);
            else
                memcpy(plain, task->rows[row], w->inputs * sizeof(float));
            memset(plain + w->inputs, 0, (w->inputs_padded - w->inputs) * sizeof(float));
        }
    }
}

/* Reorder units of `unit` bytes from [row][unit] to [unit][row]; `unit` is a constant after inlining. */
static inline __attribute__((always_inline)) void pack_tile(const uint8_t *in, uint8_t *out, size_t stride, size_t unit,
                                                            uint32_t height)
{
    for (size_t at = 0; at < stride; at += unit)
        for (uint32_t i = 0; i < height; i++, out += unit)
            memcpy(out, in + i * stride + at, unit);
}

static void pack_tiles(void *context, uint32_t from, uint32_t to)
{
    const preparation *task = context;
    const projector *p = task->p;
    for (uint32_t t = from; t < to; t++) {
        uint32_t row = t * task->tile, height = p->x.rows - row < task->tile ? p->x.rows - row : task->tile;
        const uint8_t *in = (const uint8_t *)p->plain + row * task->l.stride;
        uint8_t *out = (uint8_t *)p->x.values + row * task->l.stride;
        if (task->l.unit == 4)
            pack_tile(in, out, task->l.stride, 4, height);
        else
            pack_tile(in, out, task->l.stride, sizeof(bfp_block), height);
    }
}

typedef struct product {
    projector *p;
    const linear *w;
    const float *bias;
    float *out;
    size_t out_stride;
} product;

static void multiply(void *context, uint32_t from, uint32_t to)
{
    const product *task = context;
    const kernels *k = task->p->k;
    (task->w->exponent != NULL ? k->matmul_bfp
     : task->w->u8 != NULL     ? k->matmul_s8
                               : k->matmul_f32)(task->w, &task->p->x, from, to, task->bias, task->out,
                                                task->out_stride);
}

int32_t projector_init(projector *p, const kernels *k, pool *threads, int has_bfp, uint32_t rows, uint32_t inputs)
{
    size_t bytes = rows * (((size_t)inputs + 7) / 8 * 8) * sizeof(float); /* no layout is wider */
    *p = (projector){.k = k, .threads = threads, .has_bfp = has_bfp};
    p->x.values = aligned_zeros(bytes);
    p->x.scale = aligned_zeros(rows * sizeof(float));
    p->x.sum = aligned_zeros(rows * sizeof(int32_t));
    p->plain = aligned_zeros(bytes);
    int has_all = p->x.values != NULL && p->x.scale != NULL && p->x.sum != NULL && p->plain != NULL;
    return has_all ? ASR_CARD_OK : fail(ASR_CARD_E_MEMORY, "no memory for steps of %u rows", rows);
}

void projector_free(projector *p)
{
    free(p->x.values);
    free(p->x.scale);
    free(p->x.sum);
    free(p->plain);
}

void project(projector *p, const linear *w, const float *const *rows, uint32_t count, const float *bias, float *out,
             size_t out_stride)
{
    layout l = layout_of(p->k, w);
    preparation prepared = {p, rows, w, l, l.rows_max ? tile_rows(count, l.rows_max) : 0};
    p->x.rows = count;
    pool_run(p->threads, prepare_rows, &prepared, count);
    if (prepared.tile)
        pool_run(p->threads, pack_tiles, &prepared, (count + prepared.tile - 1) / prepared.tile);
    product task = {p, w, bias, out, out_stride};
    pool_run(p->threads, multiply, &task, w->outputs_padded / PANEL);
}
