"""What engines share that decode whole utterances: voice activity, endpoints, the queue of decodes."""
