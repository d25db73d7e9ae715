"""asr-frontend: serves the clients' dialects and turns them into sessions of 16 kHz mono audio. No model, no torch."""
