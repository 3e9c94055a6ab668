"""The address of a Redis server: what it names, and what is none."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from typing import IO

import pytest

import ws_hub
from tests.support import TIMEOUT
from ws_hub import ConfigError, Hub
from ws_hub.backplane.redis import RedisBackplane
from ws_hub.backplane.redis_server import Matched, RedisServer


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


class Answering:
    """A server that confirms what is subscribed to, with something published in between."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._thread.join(TIMEOUT)
        self._listener.close()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock, sock.makefile("rb") as stream:
            while words := self._command(stream):
                sock.sendall(self._answer(words))

    def _command(self, stream: IO[bytes]) -> list[bytes]:
        count = int(stream.readline().strip()[1:] or 0)
        return [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(count)]

    def _answer(self, words: list[bytes]) -> bytes:
        if words[0] == b"SUBSCRIBE":
            confirmed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:1\r\n"
            return confirmed + b"*3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$1\r\n1\r\n"
        if words[0] == b"PSUBSCRIBE":
            confirmed = b"*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:2\r\n"
            matched = b"*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n$1\r\n2\r\n"
            return confirmed + matched + confirmed
        return b"+OK\r\n"


def test_what_comes_before_all_is_subscribed_to_is_read_first() -> None:
    with contextlib.closing(Answering()) as answering:
        server = RedisServer(f"redis://127.0.0.1:{answering.port}")
        with contextlib.closing(server.subscribe("b", ("a*", "c*"))) as subscription:
            assert subscription.read(TIMEOUT) == [b"1", Matched(b"ab", b"2")]
            subscription.ping()
            assert subscription.read(TIMEOUT) == []
