"""asr-broker: pins each session to a slot of a worker, forwards messages, detects dead peers, refuses when full."""
