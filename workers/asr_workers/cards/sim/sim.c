/* sim.c - the functions of asr_card.h for a whole card. */
#include "card.h"

#include "failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t open_mutex = PTHREAD_MUTEX_INITIALIZER;
static uint8_t is_taken[CARDS_MAX];

uint32_t asr_card_abi_version(void)
{
    return ASR_CARD_ABI_MAJOR << 16 | ASR_CARD_ABI_MINOR;
}

void asr_card_last_error(char *sentence, size_t size)
{
    failure_sentence(sentence, size);
}

int32_t asr_card_count(const char *text, uint32_t *count)
{
    options parsed;
    if (count == NULL)
        return fail(ASR_CARD_E_ARGUMENT, "count is null");
    int32_t code = options_parse(text, &parsed);
    if (code == ASR_CARD_OK)
        *count = parsed.cards;
    return code;
}

static uint32_t capacity_with(const options *o, const model *model)
{
    int is_large = o->has_arch ? o->is_large : model != NULL && strcmp(model->name, "large") == 0;
    return o->capacity ? o->capacity : !o->is_timing ? 64 : is_large ? 800 : 2000;
}

static uint32_t slots_for(uint32_t capacity)
{
    return capacity + (capacity + 3) / 4;
}

static int32_t describe(const asr_card *card, asr_card_identity *out)
{
    if (out == NULL || out->struct_size < sizeof(uint32_t))
        return fail(ASR_CARD_E_ARGUMENT, "identity is null or has no struct_size");
    uint32_t size = out->struct_size;
    asr_card_identity full = {
        .struct_size = size,
        .capacity = card->capacity,
        .slots_max = card->slots_max,
        .temperature_c = card->health.temperature_c,
    };
    snprintf(full.id, sizeof(full.id), "simulator-%u", card->index);
    snprintf(full.serial, sizeof(full.serial), "SIM%04u", card->index);
    snprintf(full.firmware, sizeof(full.firmware), "%s 1.0", card->options.is_timing ? "timing" : "compute");
    snprintf(full.name, sizeof(full.name), "asr-pool card simulator");
    if (card->options.is_timing)
        snprintf(full.link, sizeof(full.link), "in process");
    else
        snprintf(full.link, sizeof(full.link), "in process, %s", card->kernels ? card->kernels->name : "no kernels");
    memcpy(out, &full, MIN(size, sizeof(full)));
    return ASR_CARD_OK;
}

/* Set the fields of a card, which is not allocated yet, from its index and options. */
static int32_t prepare(uint32_t index, const char *text, asr_card *card)
{
    memset(card, 0, sizeof(*card));
    int32_t code = options_parse(text, &card->options);
    if (code != ASR_CARD_OK)
        return code;
    if (index >= card->options.cards)
        return fail(ASR_CARD_E_NO_CARD, "there is no card %u: the simulator has %u", index, card->options.cards);
    card->index = index;
    card->health = (asr_card_health){.is_ok = 1, .temperature_c = COOL_C};
    card->random = card->options.seed + index;
    card->kernels = kernels_choose(card->options.isa[0] ? card->options.isa : NULL);
    if (card->kernels == NULL)
        return fail(ASR_CARD_E_UNSUPPORTED, "this processor has no instruction set %s", card->options.isa);
    card->capacity = capacity_with(&card->options, NULL);
    card->slots_max = slots_for(card->capacity);
    return ASR_CARD_OK;
}

int32_t asr_card_identify(uint32_t index, const char *text, asr_card_identity *identity)
{
    asr_card card;
    int32_t code = prepare(index, text, &card);
    return code == ASR_CARD_OK ? describe(&card, identity) : code;
}

/* Allocate slots for `capacity`; no slot may be open. Without memory the card keeps its slots. */
static int32_t allocate_slots(asr_card *card, uint32_t capacity)
{
    uint32_t count = slots_for(capacity);
    slot *slots = calloc(count, sizeof(*slots));
    uint32_t *ready = calloc(count, sizeof(*ready));
    if (slots == NULL || ready == NULL) {
        free(slots);
        free(ready);
        return fail(ASR_CARD_E_MEMORY, "no memory for %u slots", count);
    }
    free(card->slots);
    free(card->ready);
    card->slots = slots;
    card->ready = ready;
    card->ready_first = card->ready_count = 0;
    card->capacity = capacity;
    card->slots_max = card->slot_count = count;
    return ASR_CARD_OK;
}

static int32_t take(const asr_card *card)
{
    if (card->options.is_shared)
        return ASR_CARD_OK;
    pthread_mutex_lock(&open_mutex);
    int was_taken = is_taken[card->index];
    is_taken[card->index] = 1;
    pthread_mutex_unlock(&open_mutex);
    return was_taken ? fail(ASR_CARD_E_BUSY, "card %u is open already", card->index) : ASR_CARD_OK;
}

static void give_back(const asr_card *card)
{
    if (card->options.is_shared)
        return;
    pthread_mutex_lock(&open_mutex);
    is_taken[card->index] = 0;
    pthread_mutex_unlock(&open_mutex);
}

int32_t asr_card_open(uint32_t index, const char *text, asr_card **opened)
{
    asr_card prepared;
    if (opened == NULL)
        return fail(ASR_CARD_E_ARGUMENT, "card is null");
    int32_t code = prepare(index, text, &prepared);
    if (code == ASR_CARD_OK)
        code = take(&prepared);
    if (code != ASR_CARD_OK)
        return code;
    asr_card *card = malloc(sizeof(*card));
    if (card == NULL) {
        give_back(&prepared);
        return fail(ASR_CARD_E_MEMORY, "no memory for a card");
    }
    *card = prepared;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&card->mutex, NULL);
    pthread_cond_init(&card->submitted, &monotonic);
    pthread_cond_init(&card->completed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    code = allocate_slots(card, card->capacity);
    if (code == ASR_CARD_OK && (card->pool = pool_new(card->options.threads)) == NULL)
        code = fail(ASR_CARD_E_MEMORY, "no memory for threads");
    if (code != ASR_CARD_OK) {
        asr_card_close(card);
        return code;
    }
    *opened = card;
    return ASR_CARD_OK;
}

void slot_free(slot *s)
{
    free(s->state);
    free(s->ring);
    *s = (slot){0};
}

int32_t asr_card_close(asr_card *card)
{
    if (card == NULL)
        return fail(ASR_CARD_E_ARGUMENT, "card is null");
    compute_stop(card);
    timing_stop(card);
    completions_drop(card);
    for (uint32_t i = 0; card->slots != NULL && i < card->slots_max; i++)
        slot_free(card->slots + i);
    free(card->slots);
    free(card->ready);
    pool_free(card->pool);
    model_free(card->model);
    pthread_cond_destroy(&card->submitted);
    pthread_cond_destroy(&card->completed);
    pthread_mutex_destroy(&card->mutex);
    give_back(card);
    free(card);
    return ASR_CARD_OK;
}

int32_t enter(asr_card *card)
{
    if (card == NULL)
        return fail(ASR_CARD_E_ARGUMENT, "card is null");
    pthread_mutex_lock(&card->mutex);
    if (card->is_link_lost)
        return leave(card, fail(ASR_CARD_E_LINK, "the link to card %u is lost", card->index));
    if (card->is_loading)
        return leave(card, fail(ASR_CARD_E_BUSY, "card %u loads a model", card->index));
    return ASR_CARD_OK;
}

int32_t leave(asr_card *card, int32_t code)
{
    pthread_mutex_unlock(&card->mutex);
    return code;
}

int32_t asr_card_get_identity(asr_card *card, asr_card_identity *identity)
{
    int32_t code = enter(card);
    return code == ASR_CARD_OK ? leave(card, describe(card, identity)) : code;
}

int32_t asr_card_get_health(asr_card *card, asr_card_health *health)
{
    if (card == NULL || health == NULL || health->struct_size < sizeof(uint32_t))
        return fail(ASR_CARD_E_ARGUMENT, "card or health is null, or has no struct_size");
    pthread_mutex_lock(&card->mutex);
    uint32_t size = health->struct_size;
    asr_card_health full = card->health;
    full.struct_size = size;
    memcpy(health, &full, MIN(size, sizeof(full)));
    return leave(card, ASR_CARD_OK);
}

/* Runs without the mutex: is_loading rejects all calls that use the changing parts. */
static int32_t replace_model(asr_card *card, model *loaded)
{
    uint32_t classes = loaded->classes;
    int32_t code = ASR_CARD_OK;
    if (card->options.has_top_k && classes % 256 != 0)
        code = fail(ASR_CARD_E_UNSUPPORTED, "top_k needs a number of classes divisible by 256, not %u", classes);
    if (code == ASR_CARD_OK) {
        compute_stop(card); /* no slot is open, so the worker thread waits */
        code = allocate_slots(card, capacity_with(&card->options, loaded));
    }
    if (code != ASR_CARD_OK) {
        model_free(loaded);
        return code;
    }
    model_free(card->model);
    card->model = loaded;
    return card->options.is_timing ? code : compute_start(card);
}

int32_t asr_card_load(asr_card *card, const char *path)
{
    model *loaded = NULL;
    if (path == NULL)
        return fail(ASR_CARD_E_ARGUMENT, "path is null");
    int32_t code = enter(card);
    if (code != ASR_CARD_OK)
        return code;
    if (card->open_count > 0)
        return leave(card, fail(ASR_CARD_E_STATE, "a model is loaded while no slot is open"));
    card->is_loading = 1;
    leave(card, code);
    code = model_load(path, card->options.is_timing ? NULL : card->kernels, &loaded);
    if (code == ASR_CARD_OK)
        code = replace_model(card, loaded);
    pthread_mutex_lock(&card->mutex);
    card->is_loading = 0;
    return leave(card, code);
}
