"""The address of a Redis server: what it names, and what is none."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ws_hub
from ws_hub import ConfigError, Hub
from ws_hub.backplane.redis import RedisBackplane
from ws_hub.backplane.redis_server import RedisServer


@pytest.mark.parametrize(
    ("url", "label", "bus"),
    [
        ("redis://localhost", "redis://localhost:6379/0?prefix=ws", "ws:bus"),
        ("redis://h:1/2", "redis://h:1/2?prefix=ws", "ws:bus:2"),
        ("redis://h?db=2&prefix=a", "redis://h:6379/2?prefix=a", "a:bus:2"),
        ("rediss://u:p@h/0?prefix=a:b", "rediss://u@h:6379/0?prefix=a:b", "a:b:bus"),
        ("valkeys://:p@h/", "valkeys://h:6379/0?prefix=ws", "ws:bus"),
        ("valkey://[::1]:7/0", "valkey://::1:7/0?prefix=ws", "ws:bus"),
        ("redis://h/0?prefix=a&go=1", "redis://h:6379/0?prefix=a", "a:bus"),
        ("rediss://h?ssl_ca_certs=/a.pem", "rediss://h:6379/0?prefix=ws", "ws:bus"),
    ],
)
def test_an_address_names_a_server_and_an_application(url: str, label: str, bus: str) -> None:
    server = RedisServer(url)
    assert (server.label, server.bus) == (label, bus)
    assert "p@" not in repr(RedisBackplane(url))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://", "no address of a Redis server"),
        ("redis://h:port/0", "no address of a Redis server"),
        ("redis://h/name", "no address of a Redis server"),
        ("redis://h/0#part", "no address of a Redis server"),
        ("redis://h/0?prefix", "no address of a Redis server"),
        ("redis://:secret@[h/0", "no address of a Redis server"),
        ("http://h/0", "no address of a Redis server"),
        ("redis://h?prefix=a%20b", "no prefix"),
        ("redis://h?socket_timeout=5", "no setting"),
        ("redis://h?go=yes", "use go=1"),
        ("redis://h?db=one", "cannot be used"),
        ("redis://h?ssl_nothing=1", "cannot be used"),
    ],
)
def test_another_address_is_refused_by_a_text_without_its_password(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        RedisBackplane(url)
    assert "secret" not in str(caught.value)
    if not url.startswith("http"):
        with pytest.raises(ConfigError, match=text):
            Hub(backplane=url).start()


def test_go_hubs_are_spoken_to_where_the_address_says_so() -> None:
    found = [RedisServer(f"redis://h{query}").go for query in ("", "?go=0", "?prefix=a&go=1")]
    assert found == [False, False, True]


def test_a_server_is_named_by_a_text() -> None:
    with pytest.raises(TypeError, match="the address of a server"):
        RedisBackplane(6379)  # type: ignore[arg-type]


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r'pip install "ws_hub\[redis\]"'):
        RedisBackplane("redis://localhost")


def test_the_package_has_its_name_and_imports_nothing_for_it() -> None:
    assert ws_hub.RedisBackplane is RedisBackplane
    program = (
        "import sys, ws_hub; print('redis' in sys.modules, 'ws_hub.backplane.redis' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
