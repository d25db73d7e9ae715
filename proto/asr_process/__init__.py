"""What every process needs: settings, logs, metrics server, systemd, encrypted links, garbage collection.

This package contains no message, dialect or engine. Of this project's packages it imports only asr_proto and
asr_compat.
"""
