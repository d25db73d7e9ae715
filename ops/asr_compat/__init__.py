"""Reads the older systems' environment variables as settings of this project. Imports only the errors of asr_proto."""
