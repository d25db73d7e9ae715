"""The RNN-T model of the card engine: its log-mel front end, the network in plain torch, and its checkpoint files."""
