"""Moonshine's dialect, over WebRTC."""
