/* network.h - one step of the RNN-T for a batch of slots: features, encoder, greedy decoding. */
#ifndef NETWORK_H
#define NETWORK_H

#include "asr_card.h"
#include "kernels.h"
#include "model.h"
#include "pool.h"

#define SYMBOLS_MAX 30

typedef struct network network;

/* What a chunk holds: samples [960] or, where pcm is NULL, features [6][80]. */
typedef struct chunk_input {
    const int16_t *pcm;
    const float *features;
} chunk_input;

/* What it gave. `packets` is allocated when asked for; the caller frees it. */
typedef struct outcome {
    int32_t status;
    uint32_t token_count;
    uint32_t tokens[SYMBOLS_MAX];
    float log_probs[SYMBOLS_MAX];
    uint32_t packet_count;
    asr_card_packet *packets;
} outcome;

/* Everything for steps of up to `batch_max` slots; the model, the kernels and the pool stay the caller's. */
int32_t network_new(const model *m, const kernels *k, pool *p, uint32_t batch_max, network **made);
void network_free(network *n);

/* Floats of a slot's state, and the state of one that was just opened. */
size_t network_state_floats(const network *n);
const float *network_initial(const network *n);

/* One step: states[i] is updated with inputs[i], which gives outcomes[i]. */
void network_step(network *n, uint32_t batch, float *const *states, const chunk_input *inputs, int has_top_k,
                  outcome *outcomes);

#endif
