"""Conversion of a client's audio from several encodings to PCM16 mono 16 kHz. Shared by the dialects."""
