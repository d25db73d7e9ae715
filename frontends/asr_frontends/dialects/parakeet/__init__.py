"""Parakeet-TDT's dialect."""
