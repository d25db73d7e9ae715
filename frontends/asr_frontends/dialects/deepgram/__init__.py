"""Deepgram's live dialect."""
