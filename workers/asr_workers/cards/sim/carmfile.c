/* carmfile.c - a compiled model's file, mapped and checked, and its tensors. */
#include "carmfile.h"

#include "asr_card.h"
#include "failure.h"
#include "sha256.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_BYTES 256
#define CHECKED_FROM 64
#define ALIGNMENT 64

_Static_assert(sizeof(start) == 208 && sizeof(entry) == 128, "the file's layout");

uint32_t rounded_up(uint32_t value, uint32_t unit)
{
    return (value + unit - 1) / unit * unit;
}

void *aligned_zeros(size_t bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes ? bytes : 64) != 0)
        return NULL;
    memset(memory, 0, bytes);
    return memory;
}

static int32_t map(const char *path, file *f)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (descriptor < 0 || fstat(descriptor, &status) != 0) {
        if (descriptor >= 0)
            close(descriptor);
        return fail(ASR_CARD_E_MODEL, "the model %s cannot be read", path);
    }
    f->size = (size_t)status.st_size;
    void *bytes = f->size ? mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, descriptor, 0) : MAP_FAILED;
    close(descriptor);
    if (bytes == MAP_FAILED)
        return fail(ASR_CARD_E_MODEL, "the model %s cannot be read", path);
    f->bytes = bytes;
    return ASR_CARD_OK;
}

static int is_inside(const file *f, uint64_t at, uint64_t bytes)
{
    return bytes <= f->size && at <= f->size - bytes;
}

static int32_t check(const char *path, file *f)
{
    const start *s = (const start *)(const void *)f->bytes;
    if (f->size < HEADER_BYTES || memcmp(s->magic, "ASRCARM", 8) != 0)
        return fail(ASR_CARD_E_MODEL, "%s is not a compiled card model", path);
    if (s->version != 1 || s->header_bytes != HEADER_BYTES)
        return fail(ASR_CARD_E_MODEL, "%s is a card model of version %u, and this library reads 1: compile again", path,
                    s->version);
    if (s->file_bytes != f->size)
        return fail(ASR_CARD_E_MODEL, "%s is truncated: it has %zu bytes instead of %llu", path, f->size,
                    (unsigned long long)s->file_bytes);
    uint8_t digest[32];
    sha256(f->bytes + CHECKED_FROM, f->size - CHECKED_FROM, digest);
    if (memcmp(digest, s->checksum, 32) != 0)
        return fail(ASR_CARD_E_MODEL, "%s is damaged: its checksum is wrong", path);
    f->entries = (const entry *)(const void *)(f->bytes + HEADER_BYTES);
    f->count = s->entries;
    if (s->entries > (f->size - HEADER_BYTES) / sizeof(entry))
        return fail(ASR_CARD_E_MODEL, "%s has a tensor outside of the file", path);
    for (uint32_t i = 0; i < f->count; i++) {
        const entry *e = f->entries + i;
        if (!is_inside(f, e->values_at, e->values_bytes) || !is_inside(f, e->scales_at, e->scales_bytes))
            return fail(ASR_CARD_E_MODEL, "%s has a tensor outside of the file", path);
        if (e->values_at % ALIGNMENT || e->scales_at % ALIGNMENT)
            return fail(ASR_CARD_E_MODEL, "%s has a tensor that is not aligned to %d bytes", path, ALIGNMENT);
    }
    return ASR_CARD_OK;
}

int32_t carmfile_open(const char *path, file *f)
{
    int32_t code = map(path, f);
    if (code != ASR_CARD_OK)
        return code;
    code = check(path, f);
    if (code != ASR_CARD_OK)
        carmfile_close(f);
    return code;
}

void carmfile_close(file *f)
{
    munmap((void *)(uintptr_t)f->bytes, f->size);
    f->bytes = NULL;
}

const start *carmfile_start(const file *f)
{
    return (const start *)(const void *)f->bytes;
}

const entry *carmfile_find(const file *f, const char *name, uint32_t rows, uint32_t columns)
{
    for (uint32_t i = 0; i < f->count; i++) {
        const entry *e = f->entries + i;
        if (strncmp(e->name, name, sizeof(e->name)) != 0)
            continue;
        uint64_t wide = columns ? columns : 1, blocks = (wide + 7) / 8;
        uint64_t values = e->kind == 0 ? rows * wide * 4 : e->kind == 1 ? rows * wide : rows * blocks * 8;
        uint64_t scales = e->kind == 0 ? 0 : e->kind == 1 ? rows * 4ull : rows * blocks;
        if (e->rows == rows && e->columns == wide && e->axes == (columns ? 2u : 1u) && e->kind <= 2 &&
            e->values_bytes == values && e->scales_bytes == scales && (columns || e->kind == 0))
            return e;
    }
    fail(ASR_CARD_E_MODEL, "the model has no tensor %s of the right shape", name);
    return NULL;
}

static float bfp_quantum(uint8_t exponent)
{
    return ldexpf(1.0f, (int)exponent - 127 - 6);
}

/* Size of a row of int8 or bfp16 values in the file, in bytes. */
static size_t row_bytes(const entry *e)
{
    return e->kind == 1 ? e->columns : rounded_up(e->columns, 8);
}

void carmfile_row(const file *f, const entry *e, uint32_t row, float *out)
{
    const uint8_t *values = f->bytes + e->values_at, *scales = f->bytes + e->scales_at;
    if (e->kind == 0) {
        memcpy(out, values + (size_t)row * e->columns * 4, (size_t)e->columns * 4);
        return;
    }
    uint32_t blocks = (e->columns + 7) / 8;
    const int8_t *q = (const int8_t *)values + row * row_bytes(e);
    float scale = 0.0f;
    if (e->kind == 1)
        memcpy(&scale, scales + (size_t)row * 4, 4);
    for (uint32_t k = 0; k < e->columns; k++)
        out[k] = q[k] * (e->kind == 1 ? scale : bfp_quantum(scales[(size_t)row * blocks + k / 8]));
}

/* Copy a row of 8-bit values into its lane of a panel. */
static void pack_mantissas(const file *f, const entry *e, uint32_t row, uint8_t *lane)
{
    const int8_t *q = (const int8_t *)f->bytes + e->values_at + row * row_bytes(e);
    for (uint32_t k = 0; k < e->columns; k++)
        lane[(size_t)(k / 4) * 4 * PANEL + k % 4] = (uint8_t)(q[k] + 128);
}

/* Copy the exponents of the blocks' quanta: each is 6 less than that of the block's largest value. */
static void pack_exponents(const file *f, const entry *e, uint32_t row, uint8_t *lane)
{
    uint32_t blocks = rounded_up(e->columns, 8) / 8;
    const uint8_t *exponents = f->bytes + e->scales_at + (size_t)row * blocks;
    for (uint32_t block = 0; block < blocks; block++)
        lane[(size_t)block * PANEL] = exponents[block] > 6 ? (uint8_t)(exponents[block] - 6) : 0;
}

int32_t carmfile_matrix(const file *f, const char *name, uint32_t outputs, uint32_t inputs, linear *w)
{
    const entry *e = carmfile_find(f, name, outputs, inputs);
    if (e == NULL)
        return ASR_CARD_E_MODEL;
    int is_bfp = e->kind == 2 && f->k->matmul_bfp != NULL, is_packed = e->kind == 1 || is_bfp;
    *w = (linear){.outputs = outputs, .inputs = inputs};
    w->outputs_padded = rounded_up(outputs, PANEL);
    w->inputs_padded = rounded_up(inputs, is_bfp ? 8 : 4);
    size_t count = (size_t)w->outputs_padded * w->inputs_padded;
    float *row = aligned_zeros((size_t)inputs * 4);
    if (is_packed)
        w->u8 = aligned_zeros(count);
    else
        w->f32 = aligned_zeros(count * 4);
    if (e->kind == 1)
        w->scale = aligned_zeros((size_t)w->outputs_padded * 4);
    if (is_bfp)
        w->exponent = aligned_zeros(count / 8);
    if (row == NULL || (w->f32 == NULL && w->u8 == NULL) || (e->kind == 1 && w->scale == NULL) ||
        (is_bfp && w->exponent == NULL)) {
        free(row);
        return fail(ASR_CARD_E_MEMORY, "no memory for the model");
    }
    if (is_packed)
        memset(w->u8, 128, count);
    if (e->kind == 1)
        memcpy(w->scale, f->bytes + e->scales_at, (size_t)outputs * 4);
    for (uint32_t output = 0; output < outputs; output++) {
        size_t panel = (size_t)(output / PANEL) * w->inputs_padded * PANEL;
        uint32_t lane = output % PANEL;
        if (is_packed)
            pack_mantissas(f, e, output, w->u8 + panel + 4 * lane);
        else {
            carmfile_row(f, e, output, row);
            for (uint32_t k = 0; k < inputs; k++)
                w->f32[panel + (size_t)k * PANEL + lane] = row[k];
        }
        if (is_bfp)
            pack_exponents(f, e, output, w->exponent + panel / 8 + lane);
    }
    free(row);
    return ASR_CARD_OK;
}

int32_t carmfile_vector(const file *f, const char *name, uint32_t count, float *sum)
{
    const entry *e = carmfile_find(f, name, count, 0);
    if (e == NULL)
        return ASR_CARD_E_MODEL;
    const float *values = (const float *)(const void *)(f->bytes + e->values_at);
    for (uint32_t i = 0; i < count; i++)
        sum[i] += values[i];
    return ASR_CARD_OK;
}
