/* state.c - a slot's state as bytes: a header bound to the model, then the floats. */
#include "card.h"

#include "failure.h"

#include <string.h>

typedef struct state_header {
    char magic[4];
    uint32_t version;
    uint64_t step;
    uint8_t model[32];
    uint64_t bytes; /* after the header */
    uint64_t hash;  /* of step, model and the bytes after the header */
} state_header;

_Static_assert(sizeof(state_header) == 64, "the state's layout");

static uint64_t add_hash(uint64_t hash, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 0x100000001B3ull;
    return hash;
}

static uint64_t hashed(const state_header *h, const void *payload)
{
    uint64_t hash = add_hash(0xCBF29CE484222325ull, &h->step, sizeof(h->step));
    hash = add_hash(hash, h->model, sizeof(h->model));
    return add_hash(hash, payload, h->bytes);
}

static size_t payload_size(const asr_card *card)
{
    return card->network != NULL ? network_state_floats(card->network) * sizeof(float) : 0;
}

size_t state_size(const asr_card *card)
{
    return sizeof(state_header) + payload_size(card);
}

void state_export(const asr_card *card, const slot *s, void *state)
{
    state_header h = {.magic = "ASRS", .version = 1, .step = s->step, .bytes = payload_size(card)};
    if (card->model != NULL)
        memcpy(h.model, card->model->checksum, sizeof(h.model));
    if (h.bytes > 0)
        memcpy((uint8_t *)state + sizeof(h), s->state, h.bytes);
    h.hash = hashed(&h, (const uint8_t *)state + sizeof(h));
    memcpy(state, &h, sizeof(h));
}

int32_t state_import(const asr_card *card, slot *s, const void *state, size_t size)
{
    state_header h;
    if (size < sizeof(h))
        return fail(ASR_CARD_E_BAD_STATE, "the state is truncated: it has %zu bytes", size);
    memcpy(&h, state, sizeof(h));
    if (memcmp(h.magic, "ASRS", 4) != 0 || h.version != 1)
        return fail(ASR_CARD_E_BAD_STATE, "these bytes are no state of this version");
    if (card->model != NULL && memcmp(h.model, card->model->checksum, sizeof(h.model)) != 0)
        return fail(ASR_CARD_E_BAD_STATE, "the state is of another model");
    if (size != state_size(card) || h.bytes != payload_size(card))
        return fail(ASR_CARD_E_BAD_STATE, "the state has %zu bytes instead of %zu", size, state_size(card));
    const uint8_t *payload = (const uint8_t *)state + sizeof(h);
    if (h.hash != hashed(&h, payload))
        return fail(ASR_CARD_E_BAD_STATE, "the state is damaged");
    s->step = h.step;
    if (h.bytes > 0)
        memcpy(s->state, payload, h.bytes);
    return ASR_CARD_OK;
}
