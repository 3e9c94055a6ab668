"""The names that a server answers to."""

from __future__ import annotations

import pytest

from ws_hub.errors import ConfigError
from ws_hub.server.hosts import Hosts, parse_host

LOCAL = [
    "localhost", "LOCALHOST:8765", "localhost.", "a.localhost:1", "127.0.0.1", "127.0.0.1:80",
    "127.9.9.9", "[::1]", "[::1]:8765", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
]  # fmt: skip
FOREIGN = [
    "evil.example", "localhost.evil.example", "evillocalhost", "127.0.0.1.evil.example",
    "127.1", "0.0.0.0", "10.0.0.1", "[::]", "[2001:db8::1]", "2130706433", "0x7f.0.0.1",
]  # fmt: skip
NONE = [
    "", " ", "a b", "a,b", "a/b", "http://a", "u@localhost", "localhost:80:80", "localhost:x",
    "::1", "[localhost]", "[::1", "localhost\n.evil", "localhost#", "l\u00f6calhost", ".",
]  # fmt: skip


def answers(hosts: Hosts, text: str) -> bool:
    name = parse_host(text)
    assert name is not None
    return hosts.answers_to(name)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.0.0.2"])
def test_fault_123_on_loopback_only_local_names_are_answered_to(address: str) -> None:
    hosts = Hosts(address)
    assert all(answers(hosts, name) for name in LOCAL)
    assert not any(answers(hosts, name) for name in FOREIGN)
    assert not hosts.open


@pytest.mark.parametrize("text", NONE)
def test_fault_123_what_names_no_host_is_none(text: str) -> None:
    assert parse_host(text) is None


def test_names_that_are_allowed_are_added_whatever_their_port() -> None:
    hosts = Hosts("127.0.0.1", ["Hub.example.", "*.lan", "10.0.0.1", "[2001:db8::1]"])
    for name in ("hub.example", "HUB.EXAMPLE:1", "a.lan", "a.b.lan", "10.0.0.1", "[2001:db8::1]:2"):
        assert answers(hosts, name)
    for name in ("a.hub.example", "lan", "evillan", "hub.example.evil", "10.0.0.2"):
        assert not answers(hosts, name)
    assert answers(hosts, "localhost")


def test_a_star_allows_every_name() -> None:
    assert answers(Hosts("127.0.0.1", ["*"]), "evil.example")


def test_bound_elsewhere_every_name_is_allowed_unless_some_are_given() -> None:
    assert Hosts("0.0.0.0").open and Hosts("192.0.2.1").open
    assert answers(Hosts("0.0.0.0"), "any.example")
    hosts = Hosts("192.0.2.1", ["hub.example"])
    assert not hosts.open
    assert [answers(hosts, name) for name in ("hub.example", "192.0.2.1", "localhost", "a.b")] == [
        True, True, True, False,
    ]  # fmt: skip


def test_only_a_local_name_on_loopback_is_direct() -> None:
    assert Hosts("127.0.0.1").is_direct("localhost")
    assert not Hosts("127.0.0.1", ["hub.example"]).is_direct("hub.example")  # of a tunnel
    assert not Hosts("0.0.0.0").is_direct("localhost")


@pytest.mark.parametrize(
    "name", ["", "http://a", "a:80", "a/b", "a b", "*a.example", "*.", "a.*", "*.*", "ö", 5, None]
)
def test_a_name_that_could_never_match_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="allowed_hosts must hold names"):
        Hosts("127.0.0.1", [name])


@pytest.mark.parametrize("names", ["localhost", b"localhost", None, 5])
def test_a_str_is_refused_as_allowed_hosts(names: str) -> None:
    with pytest.raises(ConfigError, match="collection"):
        Hosts("127.0.0.1", names)
