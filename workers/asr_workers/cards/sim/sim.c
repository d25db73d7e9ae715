/* sim.c - the functions of asr_card.h that are about a whole card. */
#include "card.h"

#include "failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t open_mutex = PTHREAD_MUTEX_INITIALIZER;
static uint8_t is_taken[CARDS_MAX];

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

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

static void set_capacity(asr_card *card)
{
    const options *o = &card->options;
    int is_large = o->has_arch ? o->is_large : card->model != NULL && strcmp(card->model->name, "large") == 0;
    card->capacity = o->capacity ? o->capacity : !o->is_timing ? 64 : is_large ? 800 : 2000;
    card->slots_max = card->capacity + (card->capacity + 3) / 4;
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

/* A card that is not yet allocated: what its options and index make it. */
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
    set_capacity(card);
    return ASR_CARD_OK;
}

int32_t asr_card_identify(uint32_t index, const char *text, asr_card_identity *identity)
{
    asr_card card;
    int32_t code = prepare(index, text, &card);
    return code == ASR_CARD_OK ? describe(&card, identity) : code;
}

static int32_t allocate_slots(asr_card *card)
{
    slot *slots = calloc(card->slots_max, sizeof(*slots));
    uint32_t *ready = calloc(card->slots_max, sizeof(*ready));
    if (slots == NULL || ready == NULL) {
        free(slots);
        free(ready);
        return fail(ASR_CARD_E_MEMORY, "no memory for %u slots", card->slots_max);
    }
    free(card->slots);
    free(card->ready);
    card->slots = slots;
    card->ready = ready;
    card->slot_count = card->slots_max;
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
    code = allocate_slots(card);
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
    if (!card->is_link_lost)
        return ASR_CARD_OK;
    pthread_mutex_unlock(&card->mutex);
    return fail(ASR_CARD_E_LINK, "the link to card %u is lost", card->index);
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

static int32_t replace_model(asr_card *card, model *loaded)
{
    if (card->options.has_top_k && loaded->classes % 256 != 0) {
        uint32_t classes = loaded->classes;
        model_free(loaded);
        return fail(ASR_CARD_E_UNSUPPORTED, "top_k needs a number of classes divisible by 256, not %u", classes);
    }
    /* No slot is open, so the worker sleeps; it is joined without the lock it waits for. */
    pthread_mutex_unlock(&card->mutex);
    compute_stop(card);
    pthread_mutex_lock(&card->mutex);
    model_free(card->model);
    card->model = loaded;
    set_capacity(card);
    int32_t code = allocate_slots(card);
    return code == ASR_CARD_OK && !card->options.is_timing ? compute_start(card) : code;
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
    code = model_load(path, card->options.is_timing ? NULL : card->kernels, &loaded);
    return leave(card, code == ASR_CARD_OK ? replace_model(card, loaded) : code);
}
