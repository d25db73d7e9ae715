/* compute.c - the thread that computes: each step takes one chunk from every slot with queued chunks. */
#include "card.h"

#include "clock.h"
#include "failure.h"

#include <stdlib.h>
#include <string.h>

typedef struct batch {
    uint32_t count;
    uint32_t slots[BATCH_MAX];
    float *states[BATCH_MAX];
    chunk_input inputs[BATCH_MAX];
    outcome outcomes[BATCH_MAX];
} batch;

static void make_ready(asr_card *card, uint32_t number)
{
    card->ready[(card->ready_first + card->ready_count++) % card->slots_max] = number;
}

void compute_submit(asr_card *card, const asr_card_chunk *given, fate fate, const int16_t *pcm, const float *features)
{
    slot *s = card->slots + given->slot;
    chunk *c = s->ring + (s->first + s->queued) % CHUNKS_MAX;
    c->tag = given->tag;
    c->submitted_ns = now_ns();
    c->flags = given->flags;
    c->fate = fate;
    c->is_features = pcm == NULL;
    if (pcm != NULL)
        memcpy(c->data.pcm, pcm, sizeof(c->data.pcm));
    else
        memcpy(c->data.features, features, sizeof(c->data.features));
    if (s->queued++ == 0)
        make_ready(card, given->slot);
}

void compute_wipe(asr_card *card, slot *s)
{
    memcpy(s->state, network_initial(card->network), network_state_floats(card->network) * sizeof(float));
}

static void wipe_all(asr_card *card)
{
    card->is_wipe_due = 0;
    for (uint32_t i = 0; i < card->slot_count; i++)
        if (card->slots[i].is_open) {
            card->slots[i].step = 0;
            compute_wipe(card, card->slots + i);
        }
}

/* Remove a chunk from its slot and queue its completion, with a result or with the status of its fault. */
static void complete(asr_card *card, uint32_t number, const outcome *result)
{
    slot *s = card->slots + number;
    chunk *c = s->ring + s->first;
    done *d = done_new(number, c->tag, s->step, c->submitted_ns);
    if (d != NULL) { /* without memory the chunk never completes */
        d->due_ns = now_ns();
        if (result != NULL)
            d->result = *result;
        else
            d->result.status = fate_status(c->fate);
        completions_push(card, d, c->fate);
    } else if (result != NULL)
        free(result->packets);
    if (result != NULL)
        s->step++;
    if (c->flags & ASR_CARD_CHUNK_LAST) {
        s->step = 0;
        compute_wipe(card, s);
    }
    s->first = (s->first + 1) % CHUNKS_MAX;
    if (--s->queued > 0)
        make_ready(card, number);
}

static void gather(asr_card *card, batch *b)
{
    b->count = 0;
    for (uint32_t left = card->ready_count; left > 0 && b->count < BATCH_MAX; left--) {
        uint32_t number = card->ready[card->ready_first];
        card->ready_first = (card->ready_first + 1) % card->slots_max;
        card->ready_count--;
        slot *s = card->slots + number;
        chunk *c = s->ring + s->first;
        if (fate_status(c->fate) != ASR_CARD_OK) {
            complete(card, number, NULL);
            continue;
        }
        b->slots[b->count] = number;
        b->states[b->count] = s->state;
        b->inputs[b->count++] = (chunk_input){c->is_features ? NULL : c->data.pcm, c->data.features};
    }
}

static void *work(void *argument)
{
    asr_card *card = argument;
    batch *b = calloc(1, sizeof(*b));
    pthread_mutex_lock(&card->mutex);
    while (!card->is_stopping && b != NULL) {
        if (card->ready_count == 0) {
            pthread_cond_wait(&card->submitted, &card->mutex);
            continue;
        }
        if (card->is_wipe_due)
            wipe_all(card);
        gather(card, b);
        if (b->count == 0)
            continue;
        pthread_mutex_unlock(&card->mutex);
        network_step(card->network, b->count, b->states, b->inputs, card->options.has_top_k, b->outcomes);
        pthread_mutex_lock(&card->mutex);
        for (uint32_t i = 0; i < b->count; i++)
            complete(card, b->slots[i], &b->outcomes[i]);
    }
    pthread_mutex_unlock(&card->mutex);
    free(b);
    return NULL;
}

int32_t compute_start(asr_card *card)
{
    uint32_t batch_max = card->slots_max < BATCH_MAX ? card->slots_max : BATCH_MAX;
    int32_t code = network_new(card->model, card->kernels, card->pool, batch_max, &card->network);
    if (code != ASR_CARD_OK)
        return code;
    card->is_stopping = 0;
    if (pthread_create(&card->worker, NULL, work, card) != 0) {
        network_free(card->network);
        card->network = NULL;
        return fail(ASR_CARD_E_MEMORY, "no thread for the card");
    }
    card->has_worker = 1;
    return ASR_CARD_OK;
}

void compute_stop(asr_card *card)
{
    if (card->has_worker) {
        pthread_mutex_lock(&card->mutex);
        card->is_stopping = 1;
        pthread_cond_broadcast(&card->submitted);
        pthread_mutex_unlock(&card->mutex);
        pthread_join(card->worker, NULL);
        card->has_worker = 0;
    }
    network_free(card->network);
    card->network = NULL;
}
