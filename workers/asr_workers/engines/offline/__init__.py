"""Shared by engines that decode whole utterances: voice activity detection, endpointing, the queue of decodes."""
