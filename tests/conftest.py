"""Settings of every test."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# Time is measured in benches, not in tests: a slow machine fails no example.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

# A shell without job control starts background commands with SIGINT ignored, and child processes inherit that. Tests of
# Ctrl+C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)
