/* kernels_generic.c - plain C, for any processor. */
#include "kernels_body.h"

ELEMENTWISE_KERNELS(generic, )

static void store(const float *sums, const float *bias, float *out)
{
    for (int lane = 0; lane < PANEL; lane++)
        out[lane] = (bias ? bias[lane] : out[lane]) + sums[lane];
}

static void matmul_f32_generic(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                               float *out, size_t out_stride)
{
    uint32_t inputs = weights->inputs_padded;
    for (uint32_t panel = from; panel < to; panel++)
        for (uint32_t row = 0; row < x->rows; row++) {
            const float *w = weights->f32 + (size_t)panel * inputs * PANEL;
            const float *values = (const float *)x->values + (size_t)row * inputs;
            float sums[PANEL] = {0};
            for (uint32_t k = 0; k < inputs; k++, w += PANEL)
                for (int lane = 0; lane < PANEL; lane++)
                    sums[lane] += w[lane] * values[k];
            store(sums, bias ? bias + panel * PANEL : NULL, out + row * out_stride + panel * PANEL);
        }
}

static void matmul_s8_generic(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                              float *out, size_t out_stride)
{
    uint32_t inputs = weights->inputs_padded;
    for (uint32_t panel = from; panel < to; panel++)
        for (uint32_t row = 0; row < x->rows; row++) {
            const uint8_t *w = weights->u8 + (size_t)panel * inputs * PANEL;
            const int8_t *values = (const int8_t *)x->values + (size_t)row * inputs;
            int32_t totals[PANEL] = {0};
            for (uint32_t k = 0; k < inputs; k += 4, w += 4 * PANEL)
                for (int lane = 0; lane < PANEL; lane++)
                    for (int i = 0; i < 4; i++)
                        totals[lane] += w[4 * lane + i] * values[k + i];
            float sums[PANEL];
            const float *scale = weights->scale + panel * PANEL;
            for (int lane = 0; lane < PANEL; lane++)
                sums[lane] = (float)(totals[lane] - 128 * x->sum[row]) * (scale[lane] * x->scale[row]);
            store(sums, bias ? bias + panel * PANEL : NULL, out + row * out_stride + panel * PANEL);
        }
}

const kernels kernels_generic = {
    .name = "generic",
    .matmul_f32 = matmul_f32_generic,
    .matmul_s8 = matmul_s8_generic,
    ELEMENTWISE_MEMBERS(generic),
};
