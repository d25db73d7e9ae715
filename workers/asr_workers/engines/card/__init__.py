"""The card: an RNN-T on an accelerator behind asr_card.h."""
