"""asr-worker: owns one device, batches all its sessions into steps of an engine, sends hypotheses back."""
