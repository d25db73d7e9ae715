"""Settings of every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Time is measured in benches, not in tests: a slow machine fails no example.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")
