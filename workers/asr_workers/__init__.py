"""asr-worker: owns one device, batches its sessions into steps of one engine, sends hypotheses back."""
