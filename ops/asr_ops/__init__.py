"""The `asr` command: runs a pool, shows its status, measures it. Also the commands `asr-keys` and `asr_ops.wer`."""
