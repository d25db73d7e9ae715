/* carmfile.h - a compiled model's file, mapped and checked, and its tensors. carm.py describes the format. */
#ifndef CARMFILE_H
#define CARMFILE_H

#include "kernels.h"

#include <stddef.h>
#include <stdint.h>

typedef struct start {
    char magic[8];
    uint32_t version, header_bytes;
    uint64_t file_bytes;
    uint8_t checksum[32];
    uint8_t reserved[8];
    uint32_t in_feats, enc_hidden, pre_layers, time_factor, post_layers, pred_hidden, pred_layers, joint_hidden;
    uint32_t classes, window_samples, stride_samples, n_fft, n_mels, precision, entries, unused;
    char name[16];
    char source[64];
} start;

typedef struct entry {
    char name[64];
    uint32_t kind, rows, columns, axes; /* kinds: 0 fp32, 1 int8, 2 bfp16, 3 bytes */
    uint64_t values_at, values_bytes, scales_at, scales_bytes;
    uint8_t reserved[16];
} entry;

typedef struct file {
    const kernels *k;
    const uint8_t *bytes;
    size_t size;
    const entry *entries;
    uint32_t count;
} file;

/* Zeroed memory, aligned to 64 bytes. */
void *aligned_zeros(size_t bytes);
uint32_t rounded_up(uint32_t value, uint32_t unit);

int32_t carmfile_open(const char *path, file *f);
void carmfile_close(file *f);
const start *carmfile_start(const file *f);

/* The tensor with this name and shape (columns 0: one axis). Without one it calls `fail` and returns NULL. */
const entry *carmfile_find(const file *f, const char *name, uint32_t rows, uint32_t columns);
/* Row `row` of a matrix, dequantized to fp32. */
void carmfile_row(const file *f, const entry *e, uint32_t row, float *out);
/* Add a vector, fp32 in every file, to `sum`. */
int32_t carmfile_vector(const file *f, const char *name, uint32_t count, float *sum);
/* A weight matrix, packed for the file's kernels. */
int32_t carmfile_matrix(const file *f, const char *name, uint32_t outputs, uint32_t inputs, linear *w);

#endif
