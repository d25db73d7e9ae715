"""Running it: the `asr` command with serve, status and transcribe."""
