"""A Prometheus endpoint for processes that have no HTTP server."""

from __future__ import annotations

import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector

from asr_proto.errors import cannot_listen


class MetricsServer:
    """Serves `GET /metrics` on HOST:PORT from a thread; `collector` supplies the metrics. Raises SetupError."""

    def __init__(self, address: str, collector: Collector) -> None:
        host, _, port = address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(collector)
        try:
            started: tuple[WSGIServer, threading.Thread] = start_http_server(int(port), host, registry)
        except (OSError, ValueError) as error:
            raise cannot_listen(f"{address} for metrics", error) from error
        self._server, self._thread = started

    def close(self) -> None:
        """Stop listening and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
