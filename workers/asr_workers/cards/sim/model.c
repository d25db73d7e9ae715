/* model.c - a compiled model, packed for the kernels. */
#include "model.h"

#include "asr_card.h"
#include "carmfile.h"
#include "failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_MAX_MODEL (1u << 20)
#define LAYERS_MAX 64

static int32_t read_sizes(const char *path, const start *s, model *m)
{
    const uint32_t *sizes = &s->in_feats;
    for (int i = 0; i < 10; i++)
        if (sizes[i] < 1 || sizes[i] > SIZE_MAX_MODEL)
            return fail(ASR_CARD_E_MODEL, "%s has sizes out of range", path);
    if (s->pre_layers > LAYERS_MAX || s->post_layers > LAYERS_MAX || s->pred_layers > LAYERS_MAX)
        return fail(ASR_CARD_E_MODEL, "%s has sizes out of range", path);
    if (s->in_feats % N_MELS || s->in_feats / N_MELS * s->time_factor != CHUNK_FRAMES || s->n_mels != N_MELS ||
        s->n_fft != N_FFT || s->stride_samples != STRIDE_SAMPLES || s->window_samples < STRIDE_SAMPLES ||
        s->window_samples > N_FFT || s->classes < 2 || s->precision > PRECISION_BFP16)
        return fail(ASR_CARD_E_MODEL, "%s has a front end or precision that this library does not support", path);
    m->in_feats = s->in_feats;
    m->enc_hidden = s->enc_hidden;
    m->pre_layers = s->pre_layers;
    m->time_factor = s->time_factor;
    m->post_layers = s->post_layers;
    m->pred_hidden = s->pred_hidden;
    m->pred_layers = s->pred_layers;
    m->joint_hidden = s->joint_hidden;
    m->classes = s->classes;
    m->window_samples = s->window_samples;
    m->precision = (precision)s->precision;
    memcpy(m->name, s->name, 16);
    memcpy(m->checksum, s->checksum, 32);
    return ASR_CARD_OK;
}

static int32_t load_lstm(const file *f, const char *prefix, uint32_t inputs, uint32_t hidden, uint32_t layers,
                         lstm_layer **loaded)
{
    lstm_layer *lstm = *loaded = calloc(layers, sizeof(lstm_layer));
    if (lstm == NULL)
        return fail(ASR_CARD_E_MEMORY, "no memory for the model");
    for (uint32_t i = 0; i < layers; i++) {
        char name[4][64];
        static const char *const parts[] = {"weight_ih", "weight_hh", "bias_ih", "bias_hh"};
        for (int part = 0; part < 4; part++)
            snprintf(name[part], sizeof(name[part]), "%s.lstm.%s_l%u", prefix, parts[part], i);
        lstm[i].bias = aligned_zeros((size_t)rounded_up(4 * hidden, PANEL) * 4);
        if (lstm[i].bias == NULL)
            return fail(ASR_CARD_E_MEMORY, "no memory for the model");
        int32_t code = carmfile_matrix(f, name[0], 4 * hidden, i ? hidden : inputs, &lstm[i].input);
        if (code == ASR_CARD_OK)
            code = carmfile_matrix(f, name[1], 4 * hidden, hidden, &lstm[i].recurrent);
        for (int part = 2; part < 4 && code == ASR_CARD_OK; part++)
            code = carmfile_vector(f, name[part], 4 * hidden, lstm[i].bias);
        if (code != ASR_CARD_OK)
            return code;
    }
    return ASR_CARD_OK;
}

static int32_t load_dense(const file *f, const char *prefix, uint32_t outputs, uint32_t inputs, dense *d)
{
    char name[64];
    snprintf(name, sizeof(name), "%s.weight", prefix);
    int32_t code = carmfile_matrix(f, name, outputs, inputs, &d->weights);
    d->bias = aligned_zeros((size_t)rounded_up(outputs, PANEL) * 4);
    if (code != ASR_CARD_OK)
        return code;
    if (d->bias == NULL)
        return fail(ASR_CARD_E_MEMORY, "no memory for the model");
    snprintf(name, sizeof(name), "%s.bias", prefix);
    return carmfile_vector(f, name, outputs, d->bias);
}

static int32_t load_embedding(const file *f, model *m)
{
    const entry *e = carmfile_find(f, "prediction.embed.weight", m->classes - 1, m->pred_hidden);
    if (e == NULL)
        return ASR_CARD_E_MODEL;
    m->embedding = aligned_zeros((size_t)(m->classes - 1) * m->pred_hidden * 4);
    if (m->embedding == NULL)
        return fail(ASR_CARD_E_MEMORY, "no memory for the model");
    for (uint32_t token = 0; token < m->classes - 1; token++)
        carmfile_row(f, e, token, m->embedding + (size_t)token * m->pred_hidden);
    return ASR_CARD_OK;
}

static int32_t load_weights(const file *f, model *m)
{
    float means[N_MELS] = {0}, variances[N_MELS] = {0};
    int32_t code = carmfile_vector(f, "melmeans", N_MELS, means);
    if (code == ASR_CARD_OK)
        code = carmfile_vector(f, "melvars", N_MELS, variances);
    if (code == ASR_CARD_OK)
        frontend_init(&m->front, m->window_samples, means, variances);
    if (code == ASR_CARD_OK)
        code = load_lstm(f, "encoder.pre_rnn", m->in_feats, m->enc_hidden, m->pre_layers, &m->pre);
    uint32_t stacked = m->enc_hidden * m->time_factor;
    if (code == ASR_CARD_OK)
        code = load_lstm(f, "encoder.post_rnn", stacked, m->enc_hidden, m->post_layers, &m->post);
    if (code == ASR_CARD_OK)
        code = load_lstm(f, "prediction.dec_rnn", m->pred_hidden, m->pred_hidden, m->pred_layers, &m->pred);
    if (code == ASR_CARD_OK)
        code = load_dense(f, "joint_enc", m->joint_hidden, m->enc_hidden, &m->joint_enc);
    if (code == ASR_CARD_OK)
        code = load_dense(f, "joint_pred", m->joint_hidden, m->pred_hidden, &m->joint_pred);
    if (code == ASR_CARD_OK)
        code = load_dense(f, "joint_net.2", m->classes, m->joint_hidden, &m->joint_net);
    return code == ASR_CARD_OK ? load_embedding(f, m) : code;
}

int32_t model_load(const char *path, const kernels *k, model **loaded)
{
    file f = {.k = k};
    int32_t code = carmfile_open(path, &f);
    if (code != ASR_CARD_OK)
        return code;
    model *m = calloc(1, sizeof(*m));
    code = m == NULL ? fail(ASR_CARD_E_MEMORY, "no memory for the model") : read_sizes(path, carmfile_start(&f), m);
    if (code == ASR_CARD_OK && k != NULL)
        code = load_weights(&f, m);
    carmfile_close(&f);
    if (code == ASR_CARD_OK)
        *loaded = m;
    else
        model_free(m);
    return code;
}

static void free_linear(linear *w)
{
    free(w->f32);
    free(w->u8);
    free(w->scale);
    free(w->exponent);
}

static void free_lstm(lstm_layer *lstm, uint32_t layers)
{
    for (uint32_t i = 0; lstm != NULL && i < layers; i++) {
        free_linear(&lstm[i].input);
        free_linear(&lstm[i].recurrent);
        free(lstm[i].bias);
    }
    free(lstm);
}

void model_free(model *m)
{
    if (m == NULL)
        return;
    free_lstm(m->pre, m->pre_layers);
    free_lstm(m->post, m->post_layers);
    free_lstm(m->pred, m->pred_layers);
    dense *denses[] = {&m->joint_enc, &m->joint_pred, &m->joint_net};
    for (int i = 0; i < 3; i++) {
        free_linear(&denses[i]->weights);
        free(denses[i]->bias);
    }
    free(m->embedding);
    free(m);
}
