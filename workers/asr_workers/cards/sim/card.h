/* card.h - the internal data of a simulated card, shared by its parts. `mutex` guards all of it; while a model is being
 * loaded, `is_loading` does. */
#ifndef CARD_H
#define CARD_H

#include "asr_card.h"
#include "kernels.h"
#include "model.h"
#include "network.h"
#include "options.h"
#include "pool.h"

#include <pthread.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))

#define CHUNKS_MAX 8    /* chunks of a slot in flight */
#define BATCH_MAX 256   /* slots in one step */
#define DEADLINE_NS 60000000ull
#define NEVER UINT64_MAX
#define COOL_C 45.0f
#define HOT_C 105.0f

/* The outcome of a chunk: a result, or a fault. */
typedef enum fate { FATE_RESULT, FATE_TWICE, FATE_DROPPED, FATE_ECC, FATE_RESET, FATE_HEAT } fate;

typedef struct chunk {
    uint64_t tag;
    uint64_t submitted_ns;
    uint32_t flags;
    fate fate;
    int is_features;
    union {
        int16_t pcm[ASR_CARD_CHUNK_SAMPLES];
        float features[ASR_CARD_CHUNK_FEATURES];
    } data;
} chunk;

typedef struct slot {
    int is_open;
    uint32_t in_flight; /* chunks submitted and not polled */
    uint64_t step;
    uint64_t due_ns;    /* timing: when its last chunk completes */
    float *state;       /* compute: network_state_floats() floats */
    chunk *ring;        /* compute: queue of CHUNKS_MAX chunks */
    uint32_t first, queued;
} slot;

/* A chunk that is complete, or (timing) completes at due_ns. */
typedef struct done {
    struct done *next;
    uint64_t due_ns, order;
    uint64_t submitted_ns;
    uint32_t slot;
    uint64_t tag, step;
    int is_extra; /* the second completion of a chunk (fault "count"), which is no longer in flight */
    outcome result;
} done;

struct asr_card {
    pthread_mutex_t mutex;
    pthread_cond_t submitted, completed;
    options options;
    uint32_t index;
    uint32_t capacity, slots_max, slot_count, open_count;
    slot *slots;
    asr_card_health health;
    uint64_t submits;
    int is_hung, is_hot, is_link_lost;
    int is_loading; /* asr_card_load runs without the mutex; `enter` rejects all other calls */
    done *first_done, *last_done;
    model *model;

    /* compute */
    const kernels *kernels;
    pool *pool;
    network *network;
    pthread_t worker;
    int has_worker, is_stopping, is_wipe_due;
    uint32_t *ready; /* ring of slots_max: slots with queued chunks, each once, in the order of their first chunk */
    uint32_t ready_first, ready_count;

    /* timing */
    done **heap; /* by due_ns, then order */
    size_t heap_count, heap_max;
    uint64_t busy_until_ns, order, random;
};

/* sim.c: `enter` locks an open card whose link works and that loads no model; if it returns an error, the card is not
 * locked. `leave` unlocks the card and returns `code`. */
int32_t enter(asr_card *card);
int32_t leave(asr_card *card, int32_t code);
void slot_free(slot *s);

/* completions.c: a chunk is complete. */
done *done_new(uint32_t slot, uint64_t tag, uint64_t step, uint64_t submitted_ns);
void done_free(done *d);
void completions_push(asr_card *card, done *d, fate fate);
int32_t completions_take(asr_card *card, asr_card_results *results);
void completions_drop(asr_card *card);

/* faults.c */
int32_t faults_on_submit(asr_card *card);
fate faults_fate(const asr_card *card, uint32_t place);
int32_t fate_status(fate fate);

/* compute.c */
int32_t compute_start(asr_card *card);
void compute_stop(asr_card *card);
void compute_submit(asr_card *card, const asr_card_chunk *given, fate fate, const int16_t *pcm, const float *features);
void compute_wipe(asr_card *card, slot *s);

/* timing.c */
int32_t timing_submit(asr_card *card, const asr_card_chunk *given, fate fate, const int16_t *pcm);
/* Complete the chunks that are due. Returns when the next one is due, or NEVER. */
uint64_t timing_collect(asr_card *card, uint64_t now);
void timing_stop(asr_card *card);

/* state.c */
size_t state_size(const asr_card *card);
void state_export(const asr_card *card, const slot *s, void *state);
int32_t state_import(const asr_card *card, slot *s, const void *state, size_t size);

#endif
