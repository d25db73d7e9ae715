"""The project's own dialect."""
