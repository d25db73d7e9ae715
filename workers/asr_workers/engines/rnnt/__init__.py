"""The RNN-T of the card engine: its log-mel front end, the network in plain torch, checkpoints and `asr-compile`."""
