/* kernels_avx512.c - AVX-512, with and without VNNI. */
#if defined(__x86_64__)

#include "kernels_body.h"

#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")))

ELEMENTWISE_KERNELS(avx512, AVX512)

/*
 * A tile is a panel of weights times up to 12 rows. It needs two registers of sums for each row and two of weights, 26
 * of 32. The sums are named variables, because compilers put an array into memory.
 */
#define ROWS_MAX 12
#define ROWS_1(X) X(0)
#define ROWS_2(X) ROWS_1(X) X(1)
#define ROWS_3(X) ROWS_2(X) X(2)
#define ROWS_4(X) ROWS_3(X) X(3)
#define ROWS_5(X) ROWS_4(X) X(4)
#define ROWS_6(X) ROWS_5(X) X(5)
#define ROWS_7(X) ROWS_6(X) X(6)
#define ROWS_8(X) ROWS_7(X) X(7)
#define ROWS_9(X) ROWS_8(X) X(8)
#define ROWS_10(X) ROWS_9(X) X(9)
#define ROWS_11(X) ROWS_10(X) X(10)
#define ROWS_12(X) ROWS_11(X) X(11)
#define EACH_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12)

AVX512 INLINE void store_avx512(__m512 sums, const float *bias, float *out)
{
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(bias ? bias : out), sums));
}

AVX512 INLINE void store_row_f32(__m512 low, __m512 high, const float *bias, float *out)
{
    store_avx512(low, bias, out);
    store_avx512(high, bias ? bias + 16 : NULL, out + 16);
}

#define F32_ZERO(i) __m512 low##i = _mm512_setzero_ps(), high##i = low##i;
#define F32_ADD(i)                                                                                                     \
    low##i = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[i]), low##i);                                                        \
    high##i = _mm512_fmadd_ps(w1, _mm512_set1_ps(x[i]), high##i);
#define F32_STORE(i) store_row_f32(low##i, high##i, bias, out + i * out_stride);
#define F32_TILE(m)                                                                                                    \
    AVX512 static void tile_f32_##m(const float *w, uint32_t inputs, const float *x, const float *bias, float *out,    \
                                    size_t out_stride)                                                                 \
    {                                                                                                                  \
        ROWS_##m(F32_ZERO) for (uint32_t k = 0; k < inputs; k++, w += PANEL, x += m)                                   \
        {                                                                                                              \
            __m512 w0 = _mm512_load_ps(w), w1 = _mm512_load_ps(w + 16);                                                \
            ROWS_##m(F32_ADD)                                                                                          \
        }                                                                                                              \
        ROWS_##m(F32_STORE)                                                                                            \
    }
EACH_HEIGHT(F32_TILE)

AVX512 INLINE void store_row_s8(__m512i low, __m512i high, int32_t sum, float x_scale, const float *scale,
                                const float *bias, float *out)
{
    __m512i offset = _mm512_set1_epi32(128 * sum);
    __m512 unit = _mm512_set1_ps(x_scale);
    __m512 scale0 = _mm512_mul_ps(_mm512_loadu_ps(scale), unit);
    __m512 scale1 = _mm512_mul_ps(_mm512_loadu_ps(scale + 16), unit);
    __m512 sum0 = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(low, offset)), scale0);
    __m512 sum1 = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(high, offset)), scale1);
    store_row_f32(sum0, sum1, bias, out);
}

/* sums += four unsigned weights times four signed values, in inline assembly: gcc 12 copies the sums of the intrinsic
 * through memory. */
VNNI INLINE void add_products(__m512i *sums, __m512i weights, const int32_t *values)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(*sums) : "v"(weights), "m"(*values));
}

#define S8_ZERO(i) __m512i low##i = _mm512_setzero_si512(), high##i = low##i;
#define S8_ADD(i)                                                                                                      \
    add_products(&low##i, w0, x + i);                                                                                  \
    add_products(&high##i, w1, x + i);
#define S8_STORE(i) store_row_s8(low##i, high##i, sums[i], x_scales[i], scale, bias, out + i * out_stride);
#define S8_TILE(m)                                                                                                     \
    VNNI static void tile_s8_##m(const uint8_t *w, uint32_t inputs, const int32_t *x, const int32_t *sums,             \
                                 const float *x_scales, const float *scale, const float *bias, float *out,             \
                                 size_t out_stride)                                                                    \
    {                                                                                                                  \
        ROWS_##m(S8_ZERO) for (uint32_t k = 0; k < inputs; k += 4, w += 4 * PANEL, x += m)                             \
        {                                                                                                              \
            __m512i w0 = _mm512_load_si512(w), w1 = _mm512_load_si512(w + 64);                                         \
            ROWS_##m(S8_ADD)                                                                                           \
        }                                                                                                              \
        ROWS_##m(S8_STORE)                                                                                             \
    }
EACH_HEIGHT(S8_TILE)

/* A block of 8 is summed in integers, which is exact, then scaled by both quanta and added. */
#define BFP_ROWS_MAX 10
#define BFP_ADD(i)                                                                                                     \
    {                                                                                                                  \
        const int32_t *q = (const int32_t *)(const void *)x[i].q;                                                      \
        __m512i sum0 = _mm512_set1_epi32(x[i].offset), sum1 = sum0;                                                    \
        add_products(&sum0, w00, q);                                                                                   \
        add_products(&sum1, w10, q);                                                                                   \
        add_products(&sum0, w01, q + 1);                                                                               \
        add_products(&sum1, w11, q + 1);                                                                               \
        __m512 quantum = _mm512_set1_ps(x[i].quantum);                                                                 \
        low##i = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum0), _mm512_mul_ps(quantum0, quantum), low##i);                  \
        high##i = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum1), _mm512_mul_ps(quantum1, quantum), high##i);                \
    }
#define BFP_TILE(m)                                                                                                    \
    VNNI static void tile_bfp_##m(const uint8_t *w, const uint8_t *exponents, uint32_t blocks, const bfp_block *x,     \
                                  const float *bias, float *out, size_t out_stride)                                    \
    {                                                                                                                  \
        ROWS_##m(F32_ZERO) for (uint32_t block = 0; block < blocks; block++, w += 8 * PANEL, x += m)                   \
        {                                                                                                              \
            __m512i w00 = _mm512_load_si512(w), w10 = _mm512_load_si512(w + 64);                                       \
            __m512i w01 = _mm512_load_si512(w + 128), w11 = _mm512_load_si512(w + 192);                                \
            __m512 quantum0 = quanta(exponents + block * PANEL), quantum1 = quanta(exponents + block * PANEL + 16);    \
            ROWS_##m(BFP_ADD)                                                                                          \
        }                                                                                                              \
        ROWS_##m(F32_STORE)                                                                                            \
    }

/* Powers of two from their biased exponents. */
VNNI INLINE __m512 quanta(const uint8_t *exponents)
{
    __m512i wide = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(const void *)exponents));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 23));
}

#define EACH_BFP_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10)
EACH_BFP_HEIGHT(BFP_TILE)

typedef void (*f32_tile)(const float *, uint32_t, const float *, const float *, float *, size_t);
typedef void (*s8_tile)(const uint8_t *, uint32_t, const int32_t *, const int32_t *, const float *, const float *,
                        const float *, float *, size_t);
typedef void (*bfp_tile)(const uint8_t *, const uint8_t *, uint32_t, const bfp_block *, const float *, float *, size_t);
#define F32_NAME(m) tile_f32_##m,
#define S8_NAME(m) tile_s8_##m,
#define BFP_NAME(m) tile_bfp_##m,
static const f32_tile f32_tiles[] = {NULL, EACH_HEIGHT(F32_NAME)};
static const s8_tile s8_tiles[] = {NULL, EACH_HEIGHT(S8_NAME)};
static const bfp_tile bfp_tiles[] = {NULL, EACH_BFP_HEIGHT(BFP_NAME)};

static void matmul_f32_avx512(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                              float *out, size_t out_stride)
{
    uint32_t inputs = weights->inputs_padded, most = tile_rows(x->rows, ROWS_MAX);
    for (uint32_t panel = from; panel < to; panel++) {
        const float *w = weights->f32 + (size_t)panel * inputs * PANEL, *b = bias ? bias + panel * PANEL : NULL;
        for (uint32_t row = 0; row < x->rows; row += most) {
            uint32_t m = x->rows - row < most ? x->rows - row : most;
            const float *values = (const float *)x->values + (size_t)row * inputs;
            f32_tiles[m](w, inputs, values, b, out + row * out_stride + panel * PANEL, out_stride);
        }
    }
}

static void matmul_s8_vnni(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                           float *out, size_t out_stride)
{
    uint32_t inputs = weights->inputs_padded, most = tile_rows(x->rows, ROWS_MAX);
    for (uint32_t panel = from; panel < to; panel++) {
        const uint8_t *w = weights->u8 + (size_t)panel * inputs * PANEL;
        const float *b = bias ? bias + panel * PANEL : NULL, *scale = weights->scale + panel * PANEL;
        for (uint32_t row = 0; row < x->rows; row += most) {
            uint32_t m = x->rows - row < most ? x->rows - row : most;
            const int32_t *words = (const int32_t *)x->values + (size_t)row * (inputs / 4);
            s8_tiles[m](w, inputs, words, x->sum + row, x->scale + row, scale, b,
                        out + row * out_stride + panel * PANEL, out_stride);
        }
    }
}

static void matmul_bfp_vnni(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                            float *out, size_t out_stride)
{
    uint32_t blocks = weights->inputs_padded / 8, most = tile_rows(x->rows, BFP_ROWS_MAX);
    for (uint32_t panel = from; panel < to; panel++) {
        const uint8_t *w = weights->u8 + (size_t)panel * blocks * 8 * PANEL;
        const uint8_t *exponents = weights->exponent + (size_t)panel * blocks * PANEL;
        const float *b = bias ? bias + panel * PANEL : NULL;
        for (uint32_t row = 0; row < x->rows; row += most) {
            uint32_t m = x->rows - row < most ? x->rows - row : most;
            bfp_tiles[m](w, exponents, blocks, (const bfp_block *)x->values + (size_t)row * blocks, b,
                         out + row * out_stride + panel * PANEL, out_stride);
        }
    }
}

const kernels kernels_vnni = {
    .name = "vnni",
    .rows_max_f32 = ROWS_MAX,
    .rows_max_s8 = ROWS_MAX,
    .rows_max_bfp = BFP_ROWS_MAX,
    .matmul_f32 = matmul_f32_avx512,
    .matmul_s8 = matmul_s8_vnni,
    .matmul_bfp = matmul_bfp_vnni,
    ELEMENTWISE_MEMBERS(avx512),
};

/* Without VNNI, the AVX2 function computes the 8-bit products; it needs contiguous rows. */
static void matmul_s8_plain(const linear *weights, const operand *x, uint32_t from, uint32_t to, const float *bias,
                            float *out, size_t out_stride)
{
    kernels_avx2.matmul_s8(weights, x, from, to, bias, out, out_stride);
}

const kernels kernels_avx512 = {
    .name = "avx512",
    .rows_max_f32 = ROWS_MAX,
    .matmul_f32 = matmul_f32_avx512,
    .matmul_s8 = matmul_s8_plain,
    ELEMENTWISE_MEMBERS(avx512),
};

#endif
