"""A TCP proxy between a client and a service, which can break connections as networks do. It runs in threads."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class Link:
    """One connection through the proxy: bytes in both directions until either side ends or a test breaks it."""

    def __init__(self, client: socket.socket, port: int) -> None:
        self._client = client
        self._server = socket.create_connection(("127.0.0.1", port))
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._is_stranded = False
        self.unheard = b""
        """The server's bytes after the client was gone."""
        self._threads = [threading.Thread(target=pump) for pump in (self._forward, self._answer)]
        for thread in self._threads:
            thread.start()

    def mute(self) -> None:
        """The client receives nothing from here on."""
        self._may_answer.clear()

    def cut(self) -> None:
        """Both sides see the connection end, without a close of the WebSocket."""
        for end in (self._client, self._server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._may_answer.set()

    def strand(self) -> None:
        """The connection ends for the client. The server does not notice and continues to send."""
        self._is_stranded = True
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._server.close()

    def _forward(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(65_536):
                self._server.sendall(data)
        if not self._is_stranded:
            self._end(self._server)

    def _answer(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(65_536):
                self._may_answer.wait()
                if self._is_stranded:
                    self.unheard += data
                else:
                    self._client.sendall(data)
        self._end(self._client)

    @staticmethod
    def _end(side: socket.socket) -> None:
        with suppress(OSError):
            side.shutdown(socket.SHUT_WR)


class Proxy:
    """Forwards connections at `url` to the service's `port`. A changed port applies to new connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.links: list[Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def link(self) -> Link:
        """The newest connection."""
        return self.links[-1]

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for link in self.links:
            link.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    self.links.append(Link(client, self.port))
                except OSError:  # no process listens there
                    client.close()
