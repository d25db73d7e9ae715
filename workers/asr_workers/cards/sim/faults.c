/*
 * faults.c - injects the fault of the option `fault` at one submit, counted from 1 since the card was opened:
 *   hang   no chunk completes any more; health still reports ok
 *   link   this submit and every later call fail, but health and close
 *   heat   from now on chunks complete with ASR_CARD_E_HEAT
 *   ecc    the first chunk completes with ASR_CARD_E_ECC
 *   reset  every chunk in flight completes with ASR_CARD_E_RESET, and all slots return to their initial state
 *   count  the first chunk completes twice
 *   drop   the first chunk never completes
 */
#include "card.h"

#include "failure.h"

int32_t faults_on_submit(asr_card *card)
{
    card->submits++;
    if (card->options.fault == FAULT_NONE || card->submits != card->options.fault_step)
        return ASR_CARD_OK;
    switch (card->options.fault) {
    case FAULT_HANG:
        card->is_hung = 1;
        break;
    case FAULT_HEAT:
        card->is_hot = 1;
        card->health.is_ok = 0;
        card->health.temperature_c = HOT_C;
        break;
    case FAULT_ECC:
        card->health.ecc_errors++;
        card->health.is_ok = 0;
        break;
    case FAULT_RESET:
        card->health.resets++;
        card->is_wipe_due = 1;
        for (uint32_t i = 0; i < card->slot_count; i++)
            for (uint32_t q = 0; q < card->slots[i].queued; q++)
                card->slots[i].ring[(card->slots[i].first + q) % CHUNKS_MAX].fate = FATE_RESET;
        for (size_t i = 0; i < card->heap_count; i++)
            card->heap[i]->result = (outcome){.status = ASR_CARD_E_RESET};
        break;
    case FAULT_LINK:
        card->is_link_lost = 1;
        card->health.is_ok = 0;
        pthread_cond_signal(&card->completed);
        return fail(ASR_CARD_E_LINK, "the link to card %u is lost", card->index);
    default:
        break;
    }
    return ASR_CARD_OK;
}

fate faults_fate(const asr_card *card, uint32_t place)
{
    if (card->is_hot)
        return FATE_HEAT;
    if (card->submits != card->options.fault_step)
        return FATE_RESULT;
    switch (card->options.fault) {
    case FAULT_RESET:
        return FATE_RESET;
    case FAULT_ECC:
        return place == 0 ? FATE_ECC : FATE_RESULT;
    case FAULT_COUNT:
        return place == 0 ? FATE_TWICE : FATE_RESULT;
    case FAULT_DROP:
        return place == 0 ? FATE_DROPPED : FATE_RESULT;
    default:
        return FATE_RESULT;
    }
}

int32_t fate_status(fate fate)
{
    return fate == FATE_ECC     ? ASR_CARD_E_ECC
           : fate == FATE_RESET ? ASR_CARD_E_RESET
           : fate == FATE_HEAT  ? ASR_CARD_E_HEAT
                                : ASR_CARD_OK;
}
