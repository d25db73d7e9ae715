"""Which clients may open a session."""

from __future__ import annotations

import pytest

from asr_frontends.access import (
    Admission,
    AdmittedClient,
    Forbidden,
    Gate,
    Rules,
    Unauthorized,
    digest,
    http_status,
    parse_keys,
    shown_key,
)
from asr_frontends.codec import Request
from asr_proto.errors import LimitExceeded, PeerError, SetupError

KEYS = {digest("s3cret"): "alice", digest("other"): "bob"}


def request(query: str = "", address: str = "10.0.0.1", protocols: tuple[str, ...] = (), **headers: str) -> Request:
    return Request("/v1/stream", query, protocols, {k.replace("_", "-"): v for k, v in headers.items()}, address)


@pytest.mark.parametrize(
    "shown",
    [
        request(authorization="Bearer s3cret"),
        request(authorization="bearer  s3cret "),
        request(authorization="Token s3cret"),
        request(x_api_key="s3cret"),
        request("model=x&token=s3cret"),
        request("api_key=s3cret"),
        request(protocols=("token", "s3cret")),
    ],
)
def test_a_key_may_be_sent_in_any_of_these_ways(shown: Request) -> None:
    assert Gate(Rules(keys=KEYS)).admit(shown) == Admission(AdmittedClient("alice", "10.0.0.1"))


@pytest.mark.parametrize(
    "shown",
    [
        request(),
        request(authorization="Bearer wrong"),
        request(authorization="Basic s3cret"),
        request(authorization="Bearer"),
        request("token="),
        request(authorization=f"Bearer {digest('s3cret')}"),
        request(protocols=("stream.asr.api.myrtle.ai",)),
        request(authorization="Bearer \udcff"),
    ],
)
def test_a_client_without_a_known_key_is_refused(shown: Request) -> None:
    with pytest.raises(Unauthorized) as error:
        Gate(Rules(keys=KEYS)).admit(shown)
    assert http_status(error.value) == 401


def test_without_a_key_file_every_client_is_admitted() -> None:
    assert Gate(Rules()).admit(request()) == Admission(AdmittedClient("", "10.0.0.1"))
    assert shown_key(request()) is None


def test_an_empty_key_file_admits_no_client() -> None:
    with pytest.raises(Unauthorized):
        Gate(Rules(keys={})).admit(request(authorization="Bearer s3cret"))


def test_origins() -> None:
    gate = Gate(Rules(origins=frozenset({"https://good.example"})))
    gate.admit(request())
    gate.admit(request(origin="https://good.example"))
    with pytest.raises(Forbidden) as error:
        gate.admit(request(origin="https://evil.example"))
    assert http_status(error.value) == 403
    for rules in (Rules(), Rules(origins=frozenset({"*"}))):
        Gate(rules).admit(request(origin="https://any.example"))


def test_sessions_per_key_and_per_address() -> None:
    gate = Gate(Rules(keys=KEYS, sessions_per_key_max=2, sessions_per_address_max=3))
    first = gate.admit(request(authorization="Bearer s3cret"))
    gate.admit(request(authorization="Bearer s3cret"))
    with pytest.raises(LimitExceeded) as error:
        gate.admit(request(authorization="Bearer s3cret"))
    assert http_status(error.value) == 429
    gate.admit(request(authorization="Bearer other"))
    with pytest.raises(LimitExceeded):
        gate.admit(request(authorization="Bearer other"))
    gate.admit(request(authorization="Bearer other", address="10.0.0.2"))
    gate.leave(first)
    gate.admit(request(authorization="Bearer s3cret"))


def test_rules_can_change_while_sessions_run() -> None:
    gate = Gate(Rules(keys=KEYS))
    admission = gate.admit(request(authorization="Bearer s3cret"))
    gate.rules = Rules(keys={})
    with pytest.raises(Unauthorized):
        gate.admit(request(authorization="Bearer s3cret"))
    gate.leave(admission)


def test_key_files() -> None:
    text = f"# ours\nalice {digest('s3cret')}\n\nbob {digest('other').upper()} # since May\n"
    assert parse_keys(text) == KEYS


@pytest.mark.parametrize("line", ["alice", "alice s3cret", f"alice {'g' * 64}", f"al ice {digest('x')}"])
def test_a_bad_line_in_a_key_file_is_named(line: str) -> None:
    with pytest.raises(SetupError, match="line 2"):
        parse_keys("\n" + line)


# ---- Removed keys ----


def test_a_removed_key_ends_what_its_clients_have_open() -> None:
    gate = Gate(Rules(keys={digest("a"): "alice", digest("b"): "bob"}))
    alice, again, bob = (gate.admit(request(**{"x-api-key": key})) for key in "aab")
    ended: list[PeerError] = []
    gate.leave(again)
    with alice.ending(ended.append), bob.ending(ended.append):
        gate.rules = Rules(keys={digest("new"): "alice", digest("b"): "bob"})
        assert gate.revoke() == 1
        assert [error.slug for error in ended] == ["key-revoked"]
        gate.revoke()
    assert len(ended) == 1, "it ends once, also while its client still closes"
    with alice.ending(ended.append):
        assert len(ended) == 2, "what begins late, of a client that was admitted before, ends at once"


def test_without_keys_nothing_is_revoked() -> None:
    gate = Gate(Rules())
    gate.admit(request())
    assert gate.revoke() == 0
