/* network.h - one step of the RNN-T for a batch of slots: features, encoder, greedy decoding. */
#ifndef NETWORK_H
#define NETWORK_H

#include "asr_card.h"
#include "kernels.h"
#include "model.h"
#include "pool.h"

#define SYMBOLS_MAX 30

typedef struct network network;

/* The content of a chunk: samples [960] or, if pcm is NULL, features [6][80]. */
typedef struct chunk_input {
    const int16_t *pcm;
    const float *features;
} chunk_input;

/* The result of a chunk. `packets` is allocated with the option top_k; the caller frees it. */
typedef struct outcome {
    int32_t status;
    uint32_t token_count;
    uint32_t tokens[SYMBOLS_MAX];
    float log_probs[SYMBOLS_MAX];
    uint32_t packet_count;
    asr_card_packet *packets;
} outcome;

/* The buffers for steps of up to `batch_max` slots; the caller keeps ownership of the model, kernels and pool. */
int32_t network_new(const model *m, const kernels *k, pool *p, uint32_t batch_max, network **made);
void network_free(network *n);

/* The number of floats in a slot's state, and the initial state of a slot. */
size_t network_state_floats(const network *n);
const float *network_initial(const network *n);

/* One step: for each i, update states[i] with inputs[i] and write the result to outcomes[i]. */
void network_step(network *n, uint32_t batch, float *const *states, const chunk_input *inputs, int has_top_k,
                  outcome *outcomes);

#endif
