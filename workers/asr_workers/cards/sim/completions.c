/* completions.c - the queue of complete chunks that are not polled yet. */
#include "card.h"

#include "failure.h"

#include <stdlib.h>
#include <string.h>

done *done_new(uint32_t slot, uint64_t tag, uint64_t step, uint64_t submitted_ns)
{
    done *d = calloc(1, sizeof(*d));
    if (d != NULL)
        *d = (done){.slot = slot, .tag = tag, .step = step, .submitted_ns = submitted_ns};
    return d;
}

void done_free(done *d)
{
    free(d->result.packets);
    free(d);
}

static void append(asr_card *card, done *d)
{
    d->next = NULL;
    if (card->last_done != NULL)
        card->last_done->next = d;
    else
        card->first_done = d;
    card->last_done = d;
}

void completions_push(asr_card *card, done *d, fate fate)
{
    if (card->is_hung || fate == FATE_DROPPED) {
        done_free(d);
        return;
    }
    if (d->result.status == ASR_CARD_OK)
        card->health.completed++;
    else
        card->health.errors++;
    if (d->due_ns > d->submitted_ns + DEADLINE_NS)
        card->health.deadline_misses++;
    append(card, d);
    if (fate == FATE_TWICE) {
        done *again = done_new(d->slot, d->tag, d->step, d->submitted_ns);
        if (again != NULL) {
            again->is_extra = 1;
            append(card, again);
        }
    }
    pthread_cond_signal(&card->completed);
}

int32_t completions_take(asr_card *card, asr_card_results *results)
{
    while (card->first_done != NULL) {
        done *d = card->first_done;
        const outcome *o = &d->result;
        if (results->completion_count == results->completion_max ||
            o->token_count > results->token_max - results->token_count ||
            o->packet_count > results->packet_max - results->packet_count) {
            if (results->completion_count == 0)
                return fail(ASR_CARD_E_ARGUMENT, "the buffers are too small for one completion");
            return ASR_CARD_OK;
        }
        results->completions[results->completion_count++] = (asr_card_completion){
            .slot = d->slot,
            .status = o->status,
            .tag = d->tag,
            .step = d->step,
            .token_offset = results->token_count,
            .token_count = o->token_count,
            .packet_offset = results->packet_count,
            .packet_count = o->packet_count,
        };
        memcpy(results->tokens + results->token_count, o->tokens, o->token_count * sizeof(uint32_t));
        memcpy(results->log_probs + results->token_count, o->log_probs, o->token_count * sizeof(float));
        if (o->packet_count > 0)
            memcpy(results->packets + results->packet_count, o->packets, o->packet_count * sizeof(asr_card_packet));
        results->token_count += o->token_count;
        results->packet_count += o->packet_count;
        if (!d->is_extra)
            card->slots[d->slot].in_flight--;
        card->first_done = d->next;
        if (card->first_done == NULL)
            card->last_done = NULL;
        done_free(d);
    }
    return ASR_CARD_OK;
}

void completions_drop(asr_card *card)
{
    while (card->first_done != NULL) {
        done *d = card->first_done;
        card->first_done = d->next;
        done_free(d);
    }
    card->last_done = NULL;
}
