"""asr-broker: pins each session to a worker, grants a lease on a slot, forwards, notices death, says no when full."""
