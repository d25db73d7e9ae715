"""Keys of a pool whose processes meet over tcp, and the options that name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from asr_process import certificates
from tests.e2e.service import Pool, free_port


@dataclass
class Keyring:
    """A folder with key pairs and an allow-list, and the broker's endpoints on `host`."""

    folder: Path
    host: str = "127.0.0.1"
    ports: dict[str, int] = field(default_factory=lambda: {"frontends": free_port(), "workers": free_port()})

    def make(self, name: str, *, replace: bool = False, allow: bool = False) -> Path:
        """Make a key pair; returns its public key."""
        public, _ = certificates.make_pair(self.folder, name, replace=replace)
        if allow:
            self.allow(name)
        return public

    def allow(self, *names: str) -> None:
        for name in names:
            certificates.copy_public(self.folder / f"{name}.key", self.allowed)

    def revoke(self, name: str) -> None:
        (self.allowed / f"{name}.key").unlink()

    @property
    def allowed(self) -> Path:
        return self.folder / "allowed"

    @property
    def server_keys(self) -> Path:
        """A peer's options for the broker: its endpoint and its public key."""
        return self.folder / "broker.key"

    def endpoint(self, side: str) -> str:
        return f"tcp://{self.host}:{self.ports[side]}"

    def broker(self) -> list[str]:
        sides = [f"--{side}={self.endpoint(side)}" for side in self.ports]
        return [*sides, f"--curve-key={self.folder}/broker.key_secret", f"--curve-allow={self.allowed}"]

    def worker(self, name: str, *args: str, server: Path | None = None) -> list[str]:
        return ["--engine=fake", f"--broker={self.endpoint('workers')}", *self.peer(name, server), *args]

    def frontend(self, name: str, server: Path | None = None) -> list[str]:
        return [f"--broker={self.endpoint('frontends')}", *self.peer(name, server)]

    def peer(self, name: str, server: Path | None) -> list[str]:
        own = self.folder / f"{name}.key_secret"
        return [f"--curve-key={own}", f"--curve-server-key={server or self.server_keys}"]

    def pool(self) -> Pool:
        """A broker, one worker and a frontend, each with its own key."""
        self.make("broker")
        for name in ("worker", "frontend"):
            self.make(name, allow=True)
        return Pool(broker=self.broker(), workers=[self.worker("worker")], frontend=self.frontend("frontend"))
