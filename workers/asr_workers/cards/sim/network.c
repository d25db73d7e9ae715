/*
 * network.c - one step of the RNN-T for a batch of slots, with greedy decoding (Graves 2012, arXiv:1211.3711, sections
 * 2.4 and 2.5).
 *
 * A slot's state is one array of floats: the samples that the front end carries over, h and c of every LSTM layer
 * (before the time stacking, after it, of the predictor), and the projected predictor output. A step updates the states
 * in place. The input rows of a matrix are gathered through pointers when they are prepared (quantized) for it.
 */
#include "network.h"

#include "carmfile.h"
#include "failure.h"
#include "projector.h"

#include <stdlib.h>
#include <string.h>

struct network {
    const model *m;
    const kernels *k;
    pool *p;
    uint32_t batch_max;
    size_t state_floats, pre_at, post_at, pred_at, output_at;
    float *initial;
    float *features; /* [batch][6][80], which is [batch][frames of the first LSTM][in_feats] */
    float *layer;    /* [batch * time_factor][enc_hidden] */
    float *gates;    /* [batch * time_factor][widest gates] */
    float *encoded;  /* [batch][joint, padded] */
    float *hidden;   /* [batch][pred_hidden] */
    float *joined;   /* [batch][joint, padded] */
    float *logits;   /* [batch][classes, padded] */
    float *none;     /* the embedding before the first token: zeros */
    projector projector;
    const float **rows; /* [batch * time_factor] */
    float **cells;      /* [batch]: h and c of the current layer */
    uint32_t *active;   /* [batch] */
    uint32_t *picked;   /* [batch] classes with the largest logit */
};

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

typedef struct cell_task {
    network *n;
    uint32_t hidden;
    const float *gates;
    size_t gates_stride;
    float *out;
    size_t out_stride;
} cell_task;

static void update_cells(void *context, uint32_t from, uint32_t to)
{
    const cell_task *task = context;
    for (uint32_t i = from; i < to; i++) {
        float *h = task->n->cells[i];
        task->n->k->lstm_cell(task->gates + i * task->gates_stride, task->hidden, h + task->hidden, h,
                              task->out + i * task->out_stride);
    }
}

/*
 * One LSTM layer over `frames` frames of `batch` slots. n->rows holds the inputs, [batch][frames]; n->cells the states.
 * `out` is [batch][frames][hidden] and may be the memory of the inputs. On return n->rows points to it.
 */
static void lstm(network *n, const lstm_layer *layer, uint32_t hidden, uint32_t frames, uint32_t batch, float *out)
{
    size_t stride = layer->input.outputs_padded;
    project(&n->projector, &layer->input, n->rows, batch * frames, layer->bias, n->gates, stride);
    for (uint32_t frame = 0; frame < frames; frame++) {
        for (uint32_t i = 0; i < batch; i++)
            n->rows[i] = n->cells[i];
        float *gates = n->gates + frame * stride;
        project(&n->projector, &layer->recurrent, n->rows, batch, NULL, gates, frames * stride);
        cell_task task = {n, hidden, gates, frames * stride, out + (size_t)frame * hidden, (size_t)frames * hidden};
        pool_run(n->p, update_cells, &task, batch);
    }
    for (uint32_t row = 0; row < batch * frames; row++)
        n->rows[row] = out + (size_t)row * hidden;
}

/* A stack of LSTM layers; in a slot's state, layer i begins at `at` + i * 2 * hidden. */
static void lstm_layers(network *n, const lstm_layer *layers, uint32_t count, uint32_t hidden, uint32_t frames,
                        uint32_t batch, float *const *states, size_t at, float *out)
{
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t b = 0; b < batch; b++)
            n->cells[b] = states[b] + at + (size_t)i * 2 * hidden;
        lstm(n, layers + i, hidden, frames, batch, out);
    }
}

typedef struct feature_task {
    network *n;
    float *const *states;
    const chunk_input *inputs;
} feature_task;

static void make_features(void *context, uint32_t from, uint32_t to)
{
    const feature_task *task = context;
    for (uint32_t b = from; b < to; b++) {
        float *features = task->n->features + (size_t)b * CHUNK_FRAMES * N_MELS;
        if (task->inputs[b].pcm != NULL)
            frontend_chunk(&task->n->m->front, task->n->k, task->inputs[b].pcm, task->states[b], features);
        else
            memcpy(features, task->inputs[b].features, CHUNK_FRAMES * N_MELS * sizeof(float));
    }
}

static void encode(network *n, uint32_t batch, float *const *states)
{
    const model *m = n->m;
    for (uint32_t row = 0; row < batch * m->time_factor; row++)
        n->rows[row] = n->features + (size_t)row * m->in_feats;
    lstm_layers(n, m->pre, m->pre_layers, m->enc_hidden, m->time_factor, batch, states, n->pre_at, n->layer);
    for (uint32_t b = 0; b < batch; b++)
        n->rows[b] = n->layer + (size_t)b * m->time_factor * m->enc_hidden;
    lstm_layers(n, m->post, m->post_layers, m->enc_hidden, 1, batch, states, n->post_at, n->layer);
    size_t stride = m->joint_enc.weights.outputs_padded;
    project(&n->projector, &m->joint_enc.weights, n->rows, batch, m->joint_enc.bias, n->encoded, stride);
}

/* Run the predictor on n->rows (embeddings) and write its projected output into the states. */
static void predict(network *n, uint32_t batch, float *const *states)
{
    const model *m = n->m;
    size_t stride = m->joint_pred.weights.outputs_padded;
    lstm_layers(n, m->pred, m->pred_layers, m->pred_hidden, 1, batch, states, n->pred_at, n->hidden);
    project(&n->projector, &m->joint_pred.weights, n->rows, batch, m->joint_pred.bias, n->joined, stride);
    for (uint32_t b = 0; b < batch; b++)
        memcpy(states[b] + n->output_at, n->joined + b * stride, m->joint_hidden * sizeof(float));
}

typedef struct joint_task {
    network *n;
    float *const *states;
    outcome *outcomes;
} joint_task;

static void join(void *context, uint32_t from, uint32_t to)
{
    const joint_task *task = context;
    network *n = task->n;
    size_t stride = n->m->joint_enc.weights.outputs_padded;
    for (uint32_t i = from; i < to; i++) {
        uint32_t b = n->active[i];
        n->k->add_relu(n->encoded + b * stride, task->states[b] + n->output_at, n->m->joint_hidden,
                       n->joined + i * stride);
    }
}

static void pick(void *context, uint32_t from, uint32_t to)
{
    const joint_task *task = context;
    network *n = task->n;
    uint32_t classes = n->m->classes;
    for (uint32_t i = from; i < to; i++) {
        const float *logits = n->logits + (size_t)i * n->m->joint_net.weights.outputs_padded;
        outcome *o = task->outcomes + n->active[i];
        uint32_t token = n->k->argmax(logits, classes);
        n->picked[i] = token;
        if (token == classes - 1)
            continue;
        o->tokens[o->token_count] = token;
        o->log_probs[o->token_count++] = -n->k->log_sum_exp(logits, classes, logits[token]);
    }
}

/* Append the logits of row i to its outcome, as packets. */
static void add_packets(const network *n, uint32_t i, outcome *o)
{
    const float *logits = n->logits + (size_t)i * n->m->joint_net.weights.outputs_padded;
    uint32_t count = n->m->classes / 256;
    asr_card_packet *packets = realloc(o->packets, (o->packet_count + count) * sizeof(*packets));
    if (packets == NULL) {
        o->status = ASR_CARD_E_MEMORY;
        return;
    }
    o->packets = packets;
    for (uint32_t packet = 0; packet < count; packet++) {
        asr_card_packet *out = packets + o->packet_count++;
        for (uint32_t place = 0; place < ASR_CARD_PACKET_WIDTH; place++) {
            const float *from = logits + packet * 256 + place;
            uint8_t which = 0;
            for (uint8_t vector = 1; vector < 8; vector++)
                if (from[vector * 32] > from[which * 32])
                    which = vector;
            out->value[place] = from[which * 32];
            out->which[place] = which;
        }
    }
}

static void decode(network *n, uint32_t batch, float *const *states, int has_top_k, outcome *outcomes)
{
    const model *m = n->m;
    joint_task task = {n, states, outcomes};
    uint32_t active = batch;
    for (uint32_t b = 0; b < batch; b++)
        n->active[b] = b;
    for (uint32_t symbol = 0; symbol < SYMBOLS_MAX && active > 0; symbol++) {
        pool_run(n->p, join, &task, active);
        for (uint32_t i = 0; i < active; i++)
            n->rows[i] = n->joined + (size_t)i * m->joint_enc.weights.outputs_padded;
        size_t stride = m->joint_net.weights.outputs_padded;
        project(&n->projector, &m->joint_net.weights, n->rows, active, m->joint_net.bias, n->logits, stride);
        pool_run(n->p, pick, &task, active);
        uint32_t left = 0;
        float *emitting[active];
        for (uint32_t i = 0; i < active; i++) {
            if (has_top_k)
                add_packets(n, i, outcomes + n->active[i]);
            if (n->picked[i] == m->classes - 1)
                continue;
            emitting[left] = states[n->active[i]];
            n->rows[left] = m->embedding + (size_t)n->picked[i] * m->pred_hidden;
            n->active[left++] = n->active[i];
        }
        active = left;
        if (active > 0)
            predict(n, active, emitting);
    }
}

void network_step(network *n, uint32_t batch, float *const *states, const chunk_input *inputs, int has_top_k,
                  outcome *outcomes)
{
    memset(outcomes, 0, batch * sizeof(*outcomes));
    feature_task task = {n, states, inputs};
    pool_run(n->p, make_features, &task, batch);
    encode(n, batch, states);
    decode(n, batch, states, has_top_k, outcomes);
}

size_t network_state_floats(const network *n)
{
    return n->state_floats;
}

const float *network_initial(const network *n)
{
    return n->initial;
}

static void *floats(size_t count)
{
    return aligned_zeros(count * sizeof(float));
}

#define BUFFERS(n)                                                                                                     \
    {                                                                                                                  \
        n->initial, n->none, n->features, n->layer, n->gates, n->encoded, n->hidden, n->joined, n->logits,             \
            (void *)n->rows, n->cells, n->active, n->picked                                                            \
    }

static int32_t allocate(network *n)
{
    const model *m = n->m;
    size_t batch = n->batch_max, rows = batch * m->time_factor;
    uint32_t hidden = larger(m->enc_hidden, m->pred_hidden), joint = rounded_up(m->joint_hidden, PANEL);
    uint32_t widest = larger(larger(m->in_feats, m->enc_hidden * m->time_factor), larger(hidden, m->joint_hidden));
    n->initial = calloc(n->state_floats, sizeof(float));
    n->none = calloc(m->pred_hidden, sizeof(float));
    n->features = floats(batch * CHUNK_FRAMES * N_MELS);
    n->layer = floats(rows * m->enc_hidden);
    n->gates = floats(rows * rounded_up(4 * hidden, PANEL));
    n->encoded = floats(batch * joint);
    n->hidden = floats(batch * m->pred_hidden);
    n->joined = floats(batch * joint);
    n->logits = floats(batch * rounded_up(m->classes, PANEL));
    n->rows = aligned_zeros(rows * sizeof(*n->rows));
    n->cells = aligned_zeros(batch * sizeof(*n->cells));
    n->active = aligned_zeros(batch * sizeof(*n->active));
    n->picked = aligned_zeros(batch * sizeof(*n->picked));
    void *all[] = BUFFERS(n);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        if (all[i] == NULL)
            return fail(ASR_CARD_E_MEMORY, "no memory for steps of %u slots", n->batch_max);
    int has_bfp = m->precision == PRECISION_BFP16;
    return projector_init(&n->projector, n->k, n->p, has_bfp, (uint32_t)rows, widest);
}

int32_t network_new(const model *m, const kernels *k, pool *p, uint32_t batch_max, network **made)
{
    network *n = calloc(1, sizeof(*n));
    if (n == NULL)
        return fail(ASR_CARD_E_MEMORY, "no memory for the network");
    n->m = m;
    n->k = k;
    n->p = p;
    n->batch_max = batch_max;
    n->pre_at = frontend_carry(&m->front);
    n->post_at = n->pre_at + (size_t)m->pre_layers * 2 * m->enc_hidden;
    n->pred_at = n->post_at + (size_t)m->post_layers * 2 * m->enc_hidden;
    n->output_at = n->pred_at + (size_t)m->pred_layers * 2 * m->pred_hidden;
    n->state_floats = n->output_at + m->joint_hidden;
    int32_t code = allocate(n);
    if (code != ASR_CARD_OK) {
        network_free(n);
        return code;
    }
    /* The predictor's first output is the same for every slot. */
    n->rows[0] = n->none;
    predict(n, 1, &n->initial);
    *made = n;
    return ASR_CARD_OK;
}

void network_free(network *n)
{
    if (n == NULL)
        return;
    void *all[] = BUFFERS(n);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        free(all[i]);
    projector_free(&n->projector);
    free(n);
}
