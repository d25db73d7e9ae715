"""CAIMAN-ASR's dialect."""
