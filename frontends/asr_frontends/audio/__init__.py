"""A client's stream of audio in any of several encodings, to PCM16 mono 16 kHz. Shared by the dialects."""
