"""Parakeet-TDT: a model of whole recordings, made to stream by encoding a window around each chunk."""
