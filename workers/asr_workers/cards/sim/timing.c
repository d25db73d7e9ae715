/*
 * timing.c - a card that simulates only the time: the capacity of the hardware, but no results of the network.
 *
 * Chunks pass through a pipeline one after the other, at 1.25 times the rate of `capacity` streams. Each then takes a
 * latency from a log-normal distribution: median `latency_ms` (8), 99th percentile 15/8 of it, the published values for
 * a lightly loaded card. Completions happen at whole milliseconds. With more streams than the capacity the queue grows
 * and deadlines are missed. Tokens are a function of the step and the samples: about one in four chunks has one.
 */
#include "card.h"

#include "clock.h"
#include "failure.h"

#include <math.h>
#include <stdlib.h>

#define TICK_NS 1000000ull
#define HEADROOM 1.25
#define SIGMA 0.2702 /* ln(15 / 8) / 2.326 */

static uint64_t mixed(uint64_t x)
{
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

static double uniform(asr_card *card)
{
    card->random = mixed(card->random);
    return ((card->random >> 11) + 0.5) / 9007199254740992.0;
}

static double latency_ns(asr_card *card)
{
    double normal = sqrt(-2.0 * log(uniform(card))) * cos(6.283185307179586 * uniform(card));
    return card->options.latency_ms * 1e6 * exp(SIGMA * normal);
}

static void invent(const asr_card *card, uint64_t step, const int16_t *pcm, outcome *result)
{
    uint64_t hash = mixed(step);
    for (uint32_t n = 0; pcm != NULL && n < ASR_CARD_CHUNK_SAMPLES; n += 60)
        hash = mixed(hash ^ (uint16_t)pcm[n]);
    if (hash % 4 != 0)
        return;
    uint32_t classes = card->model != NULL ? card->model->classes : card->options.is_large ? 17408 : 8704;
    result->tokens[0] = (uint32_t)(hash / 4 % (classes - 1));
    result->log_probs[0] = -0.125f;
    result->token_count = 1;
}

static int is_before(const done *a, const done *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static void swap(done **heap, size_t a, size_t b)
{
    done *kept = heap[a];
    heap[a] = heap[b];
    heap[b] = kept;
}

static int32_t heap_push(asr_card *card, done *d)
{
    if (card->heap_count == card->heap_max) {
        size_t most = card->heap_max ? 2 * card->heap_max : 256;
        done **heap = realloc(card->heap, most * sizeof(*heap));
        if (heap == NULL)
            return fail(ASR_CARD_E_MEMORY, "no memory for a chunk");
        card->heap = heap;
        card->heap_max = most;
    }
    size_t at = card->heap_count++;
    card->heap[at] = d;
    for (; at > 0 && is_before(card->heap[at], card->heap[(at - 1) / 2]); at = (at - 1) / 2)
        swap(card->heap, at, (at - 1) / 2);
    return ASR_CARD_OK;
}

static done *heap_pop(asr_card *card)
{
    done **heap = card->heap, *first = heap[0];
    size_t count = --card->heap_count, at = 0;
    heap[0] = heap[count];
    for (;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++)
            if (is_before(heap[child], heap[least]))
                least = child;
        if (least == at)
            return first;
        swap(heap, at, least);
        at = least;
    }
}

int32_t timing_submit(asr_card *card, const asr_card_chunk *given, fate fate, const int16_t *pcm)
{
    slot *s = card->slots + given->slot;
    if (card->is_wipe_due) {
        card->is_wipe_due = 0;
        for (uint32_t i = 0; i < card->slot_count; i++)
            card->slots[i].step = 0;
    }
    uint64_t now = now_ns();
    done *d = done_new(given->slot, given->tag, s->step, now);
    if (d == NULL)
        return fail(ASR_CARD_E_MEMORY, "no memory for a chunk");
    uint64_t service_ns = (uint64_t)((double)DEADLINE_NS / HEADROOM / card->capacity);
    card->busy_until_ns = (card->busy_until_ns > now ? card->busy_until_ns : now) + service_ns;
    uint64_t due = card->busy_until_ns + (uint64_t)latency_ns(card);
    due = (due + TICK_NS - 1) / TICK_NS * TICK_NS;
    s->due_ns = d->due_ns = due > s->due_ns ? due : s->due_ns;
    d->order = card->order++;
    d->result.status = fate_status(fate);
    if (d->result.status == ASR_CARD_OK) {
        invent(card, s->step, pcm, &d->result);
        s->step++;
    }
    if (given->flags & ASR_CARD_CHUNK_LAST)
        s->step = 0;
    if (fate == FATE_DROPPED) {
        done_free(d);
        return ASR_CARD_OK;
    }
    int32_t code = heap_push(card, d);
    if (code == ASR_CARD_OK && fate == FATE_TWICE) {
        done *again = done_new(d->slot, d->tag, d->step, now);
        if (again != NULL) {
            again->is_extra = 1;
            again->due_ns = d->due_ns;
            again->order = card->order++;
            code = heap_push(card, again);
        }
    }
    return code;
}

uint64_t timing_collect(asr_card *card, uint64_t now)
{
    if (card->is_hung)
        return NEVER;
    while (card->heap_count > 0 && card->heap[0]->due_ns <= now)
        completions_push(card, heap_pop(card), FATE_RESULT);
    return card->heap_count > 0 ? card->heap[0]->due_ns : NEVER;
}

void timing_stop(asr_card *card)
{
    for (size_t i = 0; i < card->heap_count; i++)
        done_free(card->heap[i]);
    free(card->heap);
    card->heap = NULL;
    card->heap_count = card->heap_max = 0;
}
