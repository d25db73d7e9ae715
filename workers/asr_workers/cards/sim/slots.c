/* slots.c - the functions of asr_card.h for slots, their states and their chunks. */
#include "card.h"

#include "clock.h"
#include "failure.h"

#include <stdlib.h>
#include <time.h>

int32_t asr_card_reserve(asr_card *card, uint32_t count)
{
    int32_t code = enter(card);
    if (code != ASR_CARD_OK)
        return code;
    if (card->open_count > 0)
        code = fail(ASR_CARD_E_STATE, "slots are reserved while none is open");
    else if (count > card->slots_max)
        code = fail(ASR_CARD_E_CAPACITY, "card %u has %u slots, not %u", card->index, card->slots_max, count);
    else
        card->slot_count = count;
    return leave(card, code);
}

/* Lock the card for an operation on an open slot without chunks in flight. */
static int32_t enter_slot(asr_card *card, uint32_t number, slot **found)
{
    *found = NULL;
    int32_t code = enter(card);
    if (code != ASR_CARD_OK)
        return code;
    if (number >= card->slot_count)
        code = fail(ASR_CARD_E_ARGUMENT, "there is no slot %u: the card has %u", number, card->slot_count);
    else if (!card->slots[number].is_open)
        code = fail(ASR_CARD_E_STATE, "slot %u is not open", number);
    else if (card->slots[number].in_flight > 0)
        code = fail(ASR_CARD_E_BUSY, "slot %u has %u chunks in flight", number, card->slots[number].in_flight);
    *found = card->slots + (code == ASR_CARD_OK ? number : 0);
    return code == ASR_CARD_OK ? code : leave(card, code);
}

static int32_t begin_slot(asr_card *card, slot *s)
{
    if (!card->options.is_timing) {
        s->state = malloc(network_state_floats(card->network) * sizeof(float));
        s->ring = calloc(CHUNKS_MAX, sizeof(chunk));
        if (s->state == NULL || s->ring == NULL) {
            slot_free(s);
            return fail(ASR_CARD_E_MEMORY, "no memory for a slot");
        }
        compute_wipe(card, s);
    }
    s->is_open = 1;
    card->open_count++;
    return ASR_CARD_OK;
}

int32_t asr_card_slot_open(asr_card *card, uint32_t number)
{
    int32_t code = enter(card);
    if (code != ASR_CARD_OK)
        return code;
    if (card->network == NULL && !card->options.is_timing)
        code = fail(ASR_CARD_E_STATE, "no model is loaded");
    else if (number >= card->slot_count)
        code = fail(ASR_CARD_E_CAPACITY, "there is no slot %u: the card has %u", number, card->slot_count);
    else if (card->slots[number].is_open)
        code = fail(ASR_CARD_E_STATE, "slot %u is open already", number);
    else
        code = begin_slot(card, card->slots + number);
    return leave(card, code);
}

int32_t asr_card_slot_close(asr_card *card, uint32_t number)
{
    slot *s;
    int32_t code = enter_slot(card, number, &s);
    if (code != ASR_CARD_OK)
        return code;
    slot_free(s);
    card->open_count--;
    return leave(card, ASR_CARD_OK);
}

int32_t asr_card_slot_reset(asr_card *card, uint32_t number)
{
    slot *s;
    int32_t code = enter_slot(card, number, &s);
    if (code != ASR_CARD_OK)
        return code;
    s->step = 0;
    if (!card->options.is_timing)
        compute_wipe(card, s);
    return leave(card, ASR_CARD_OK);
}

int32_t asr_card_state_size(asr_card *card, size_t *size)
{
    int32_t code = size == NULL ? fail(ASR_CARD_E_ARGUMENT, "size is null") : enter(card);
    if (code != ASR_CARD_OK)
        return code;
    if (card->network == NULL && !card->options.is_timing)
        return leave(card, fail(ASR_CARD_E_STATE, "no model is loaded"));
    *size = state_size(card);
    return leave(card, ASR_CARD_OK);
}

int32_t asr_card_state_export(asr_card *card, uint32_t number, void *state, size_t size)
{
    slot *s;
    int32_t code = enter_slot(card, number, &s);
    if (code != ASR_CARD_OK)
        return code;
    if (state == NULL || size < state_size(card))
        return leave(card, fail(ASR_CARD_E_ARGUMENT, "a state has %zu bytes, not %zu", state_size(card), size));
    state_export(card, s, state);
    return leave(card, ASR_CARD_OK);
}

int32_t asr_card_state_import(asr_card *card, uint32_t number, const void *state, size_t size)
{
    slot *s;
    if (state == NULL)
        return fail(ASR_CARD_E_ARGUMENT, "state is null");
    int32_t code = enter_slot(card, number, &s);
    return code == ASR_CARD_OK ? leave(card, state_import(card, s, state, size)) : code;
}

/* Add the chunks to their slots' counts; if one cannot be accepted, none is. */
static int32_t admit(asr_card *card, const asr_card_chunk *chunks, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = chunks[i].slot;
        int32_t code = ASR_CARD_OK;
        slot *s = number < card->slot_count ? card->slots + number : NULL;
        if (s == NULL)
            code = fail(ASR_CARD_E_ARGUMENT, "there is no slot %u: the card has %u", number, card->slot_count);
        else if (!s->is_open)
            code = fail(ASR_CARD_E_STATE, "slot %u is not open", number);
        else if (chunks[i].flags & ~ASR_CARD_CHUNK_LAST)
            code = fail(ASR_CARD_E_ARGUMENT, "a chunk has unknown flags %u", chunks[i].flags);
        else if (s->in_flight >= CHUNKS_MAX)
            code = fail(ASR_CARD_E_FULL, "slot %u has %u chunks in flight", number, s->in_flight);
        if (code != ASR_CARD_OK) {
            while (i-- > 0)
                card->slots[chunks[i].slot].in_flight--;
            return code;
        }
        s->in_flight++;
    }
    return ASR_CARD_OK;
}

static int32_t submit(asr_card *card, const asr_card_chunk *chunks, uint32_t count, const int16_t *pcm,
                      const float *features)
{
    int32_t code = enter(card);
    if (code != ASR_CARD_OK)
        return code;
    if (count > 0 && (chunks == NULL || (pcm == NULL && features == NULL)))
        code = fail(ASR_CARD_E_ARGUMENT, "chunks or their data are null");
    if (code == ASR_CARD_OK)
        code = admit(card, chunks, count);
    if (code == ASR_CARD_OK && count > 0)
        code = faults_on_submit(card);
    for (uint32_t i = 0; i < count && code == ASR_CARD_OK; i++) {
        fate fate = faults_fate(card, i);
        const int16_t *samples = pcm != NULL ? pcm + (size_t)i * ASR_CARD_CHUNK_SAMPLES : NULL;
        if (card->options.is_timing)
            code = timing_submit(card, chunks + i, fate, samples);
        else
            compute_submit(card, chunks + i, fate, samples,
                           pcm == NULL ? features + (size_t)i * ASR_CARD_CHUNK_FEATURES : NULL);
    }
    pthread_cond_signal(card->options.is_timing ? &card->completed : &card->submitted);
    return leave(card, code);
}

int32_t asr_card_submit(asr_card *card, const asr_card_chunk *chunks, uint32_t count, const int16_t *pcm)
{
    return submit(card, chunks, count, pcm, NULL);
}

int32_t asr_card_submit_features(asr_card *card, const asr_card_chunk *chunks, uint32_t count, const float *features)
{
    return submit(card, chunks, count, NULL, features);
}

int32_t asr_card_poll(asr_card *card, uint32_t timeout_ms, asr_card_results *results)
{
    if (results == NULL || results->struct_size < sizeof(*results) || results->completions == NULL ||
        results->tokens == NULL || results->log_probs == NULL)
        return fail(ASR_CARD_E_ARGUMENT, "results or one of their buffers is null, or struct_size is too small");
    results->completion_count = results->token_count = results->packet_count = 0;
    int32_t code = enter(card);
    if (code != ASR_CARD_OK)
        return code;
    uint64_t deadline = now_ns() + timeout_ms * 1000000ull;
    for (;;) {
        uint64_t now = now_ns(), due = card->options.is_timing ? timing_collect(card, now) : NEVER;
        if (card->first_done != NULL || now >= deadline || card->is_link_lost)
            break;
        uint64_t until = MIN(due, deadline);
        struct timespec at = {.tv_sec = (time_t)(until / 1000000000ull), .tv_nsec = (long)(until % 1000000000ull)};
        pthread_cond_timedwait(&card->completed, &card->mutex, &at);
    }
    if (card->first_done == NULL && card->is_link_lost)
        return leave(card, fail(ASR_CARD_E_LINK, "the link to card %u is lost", card->index));
    return leave(card, completions_take(card, results));
}
