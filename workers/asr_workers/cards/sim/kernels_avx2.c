/* kernels_avx2.c - AVX2 and FMA. */
#if defined(__x86_64__)

#include "kernels_body.h"

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma")))

ELEMENTWISE_KERNELS(avx2, AVX2)

AVX2 INLINE void store_avx2(__m256 sums, const float *bias, float *out)
{
    _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(bias ? bias : out), sums));
}

/* `m` rows of x times one panel; `m` is a constant after inlining. */
AVX2 INLINE void tile_f32_avx2(const int m, const float *w, uint32_t inputs, const float *x, size_t stride,
                               const float *bias, float *out, size_t out_stride)
{
    __m256 sums[3][4];
    for (int i = 0; i < m; i++)
        for (int v = 0; v < 4; v++)
            sums[i][v] = _mm256_setzero_ps();
    for (uint32_t k = 0; k < inputs; k++, w += PANEL)
        for (int i = 0; i < m; i++) {
            __m256 value = _mm256_broadcast_ss(x + i * stride + k);
            for (int v = 0; v < 4; v++)
                sums[i][v] = _mm256_fmadd_ps(_mm256_load_ps(w + 8 * v), value, sums[i][v]);
        }
    for (int i = 0; i < m; i++)
        for (int v = 0; v < 4; v++)
            store_avx2(sums[i][v], bias ? bias + 8 * v : NULL, out + i * out_stride + 8 * v);
}

AVX2 static void matmul_f32_avx2(const linear *weights, const operand *x, uint32_t from, uint32_t to,
                                 const float *bias, float *out, size_t out_stride)
{
    uint32_t inputs = weights->inputs_padded;
    for (uint32_t panel = from; panel < to; panel++) {
        const float *w = weights->f32 + (size_t)panel * inputs * PANEL, *b = bias ? bias + panel * PANEL : NULL;
        for (uint32_t row = 0; row < x->rows;) {
            const float *values = (const float *)x->values + (size_t)row * inputs;
            float *o = out + row * out_stride + panel * PANEL;
            uint32_t left = x->rows - row, m = left < 3 ? left : 3;
            if (m == 3)
                tile_f32_avx2(3, w, inputs, values, inputs, b, o, out_stride);
            else if (m == 2)
                tile_f32_avx2(2, w, inputs, values, inputs, b, o, out_stride);
            else
                tile_f32_avx2(1, w, inputs, values, inputs, b, o, out_stride);
            row += m;
        }
    }
}

/* |x| * (w with the sign of x): the sum of two such products fits into 16 bits; with w + 128 it would not. */
AVX2 INLINE void tile_s8_avx2(const int m, const uint8_t *w, uint32_t inputs, const int8_t *x, size_t stride,
                              __m256i totals[2][4])
{
    const __m256i offset = _mm256_set1_epi8((char)-128), ones = _mm256_set1_epi16(1);
    for (int i = 0; i < m; i++)
        for (int v = 0; v < 4; v++)
            totals[i][v] = _mm256_setzero_si256();
    for (uint32_t k = 0; k < inputs; k += 4, w += 4 * PANEL)
        for (int v = 0; v < 4; v++) {
            __m256i weight = _mm256_xor_si256(_mm256_load_si256((const __m256i *)(w + 32 * v)), offset);
            for (int i = 0; i < m; i++) {
                int32_t four;
                memcpy(&four, x + i * stride + k, 4);
                __m256i value = _mm256_set1_epi32(four);
                __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(value), _mm256_sign_epi8(weight, value));
                totals[i][v] = _mm256_add_epi32(totals[i][v], _mm256_madd_epi16(pairs, ones));
            }
        }
}

AVX2 static void matmul_s8_avx2(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                                float *out, size_t out_stride)
{
    uint32_t inputs = weights->inputs_padded;
    for (uint32_t panel = from; panel < to; panel++) {
        const uint8_t *w = weights->u8 + (size_t)panel * inputs * PANEL;
        const float *b = bias ? bias + panel * PANEL : NULL, *scale = weights->scale + panel * PANEL;
        for (uint32_t row = 0; row < x->rows;) {
            uint32_t m = x->rows - row < 2 ? 1 : 2;
            const int8_t *values = (const int8_t *)x->values + (size_t)row * inputs;
            __m256i totals[2][4];
            if (m == 2)
                tile_s8_avx2(2, w, inputs, values, inputs, totals);
            else
                tile_s8_avx2(1, w, inputs, values, inputs, totals);
            for (uint32_t i = 0; i < m; i++)
                for (int v = 0; v < 4; v++) {
                    __m256 unit = _mm256_mul_ps(_mm256_loadu_ps(scale + 8 * v), _mm256_set1_ps(x->scale[row + i]));
                    store_avx2(_mm256_mul_ps(_mm256_cvtepi32_ps(totals[i][v]), unit), b ? b + 8 * v : NULL,
                               out + (row + i) * out_stride + panel * PANEL + 8 * v);
                }
            row += m;
        }
    }
}

const kernels kernels_avx2 = {
    .name = "avx2",
    .matmul_f32 = matmul_f32_avx2,
    .matmul_s8 = matmul_s8_avx2,
    ELEMENTWISE_MEMBERS(avx2),
};

#endif
