"""What every process needs to run: settings, logs, metrics server, systemd, encrypted links, garbage collection.

This package must not know any message, dialect or engine; of the project it imports only asr_proto and asr_compat.
"""
