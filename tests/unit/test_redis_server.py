"""The address of a Redis server: what it names, and what is none."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from typing import IO, Any

import pytest

import ws_hub
from tests.support import TIMEOUT
from ws_hub import ConfigError, Hub
from ws_hub.backplane.redis import RedisBackplane
from ws_hub.backplane.redis_address import RedisAddress
from ws_hub.backplane.redis_nodes import Cluster, Sentinels, Unknown
from ws_hub.backplane.redis_server import Matched, RedisServer, Subscription


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
        ("rediss://h?ssl_cert_reqs=none", "rediss://h:6379/0?prefix=ws", "ws:bus"),
        ("redis+sentinel://h/m", "redis+sentinel://h:26379/m/0?prefix=ws", "ws:bus"),
        (
            "valkeys+sentinel://u:p@a:1,[::1]/my.master-1/2?sentinel_password=p%40q",
            "valkeys+sentinel://u@a:1,::1:26379/my.master-1/2?prefix=ws",
            "ws:bus:2",
        ),
        (
            "redis+cluster://u:p@a,b:7/?prefix=x",
            "redis+cluster://u@a:6379,b:7/0?prefix=x",
            "{x:0}:bus",
        ),
        ("rediss+cluster://a/0", "rediss+cluster://a:6379/0?prefix=ws", "{ws:0}:bus"),
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
        ("redis://a,b/0", "no address of a Redis server"),
        ("redis+other://h/0", "no address of a Redis server"),
        ("redis+sentinel://h:26379/0", "redis\\+sentinel://host1:26379,host2:26379/mymaster/0"),
        ("redis+sentinel://h:26379/my master/0", "no address of a Redis server"),
        ("redis+sentinel://h:1/m/0?sentinel_password=secret#a", "no address of a Redis server"),
        ("redis+sentinel://h,:1/m/0", "no address of a Redis server"),
        ("redis+cluster://h/name", "redis\\+cluster://host1:6379,host2:6379"),
        ("redis+cluster://h/1", "the database 0 alone"),
        ("redis+cluster://h?sentinel_password=secret", "no setting"),
        ("redis://h?prefix=a%20b", "no prefix"),
        ("redis://h?socket_timeout=5", "no setting"),
        ("redis://h?go=yes", "use go=1"),
        ("redis+cluster://h?go=1", "use a server, or sentinels"),
        ("redis://h?db=one", "no address of a Redis server"),
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
            confirmed = b"*3\r\n$9\r\nsubscribe\r\n$6\r\nws:bus\r\n:1\r\n"
            return confirmed + b"*3\r\n$7\r\nmessage\r\n$6\r\nws:bus\r\n$1\r\n1\r\n"
        if words[0] == b"PSUBSCRIBE":
            confirmed = b"*3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:2\r\n"
            matched = b"*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n$1\r\n2\r\n"
            return confirmed + matched + confirmed
        return b"+OK\r\n"


def test_what_comes_before_all_is_subscribed_to_is_read_first() -> None:
    with contextlib.closing(Answering()) as answering:
        server = RedisServer(f"redis://127.0.0.1:{answering.port}")
        (subscription,), fault = server.subscribe([0], ("a*", "c*"))
        with contextlib.closing(subscription):
            assert fault is None
            assert subscription.read() == (0, b"1")
            assert subscription.read() == Matched(b"ab", b"2")
            subscription.ping()
            assert subscription.has_data(TIMEOUT)
            assert subscription.read() is None


def test_the_nodes_of_an_address_have_its_settings_and_each_kind_its_login() -> None:
    url = "rediss+sentinel://u:p%40@a:1,[::1]:2/m/3?sentinel_username=s&sentinel_password=%2F&db=4"
    address = RedisAddress.parsed(url + "&client_name=c")
    assert address.url(("::1", 5)) == "rediss://u:p%40@[::1]:5/4?client_name=c"
    assert address.sentinel_url(("a", 1)) == "rediss://s:%2F@a:1/?client_name=c"


class Nodes:
    """Nodes that answer what is set, and note who is asked; others are away."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, node: tuple[str, int], *words: str) -> Any:
        self.asked.append(node[0])
        if node[0] not in self.answers:
            raise OSError(f"{node[0]} is away")
        return self.answers[node[0]]


def test_sentinels_are_asked_in_turn_and_the_one_that_has_answered_first_next_time() -> None:
    ask = Nodes(b=[b"master", b"7"])
    finder = Sentinels((("a", 1), ("b", 1)), "m", ask, (OSError,))
    assert finder.find(0) == ("master", 7)
    assert finder.find(0) == ("master", 7)
    assert ask.asked == ["a", "b", "b"]
    assert finder.is_current(0, ("master", 7))
    ask.answers["a"] = [b"other", b"8"]
    finder.failed(("master", 7))  # it was a replica: another sentinel may know more
    assert finder.find(0) == ("other", 8)
    assert not finder.is_current(0, ("master", 7))
    ask.answers.clear()
    finder.look()
    assert finder.is_current(0, ("other", 8))
    with pytest.raises(Unknown, match="none of its sentinels answers: b is away"):
        finder.find(0)


def test_a_cluster_is_asked_once_until_a_node_was_not_the_right_one() -> None:
    rows = [
        [0, 99, [b"", 1, b"id"], [b"replica", 1, b"id"]],  # without a name: the one that is asked
        [100, 199, [b"b", 2, b"id"]],
    ]
    ask = Nodes(a=rows)
    finder = Cluster((("away", 1), ("a", 1)), (5, 150, 300), ask, (OSError,))
    assert (finder.find(0), finder.find(1)) == (("a", 1), ("b", 2))
    assert ask.asked == ["away", "a"]
    with pytest.raises(Unknown, match="serves the slot 300"):
        finder.find(2)
    ask.answers = {"replica": [[0, 400, [b"replica", 1, b"id"]]]}
    finder.failed(("a", 1))
    assert finder.is_current(0, ("a", 1))  # as far as that is known
    assert [finder.find(shard) for shard in range(3)] == [("replica", 1)] * 3
    assert not finder.is_current(0, ("a", 1))
    ask.answers.clear()
    finder.failed(None)
    with pytest.raises(Unknown, match="no node of the cluster tells which nodes it has"):
        finder.find(0)


class Scripted:
    """A connection on which answers come that are set."""

    def __init__(self, *answers: list[Any]) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, ...]] = []

    def send_command(self, *words: str, check_health: bool) -> None:
        self.sent.append(words)

    def read_response(self, disable_decoding: bool) -> list[Any]:
        return self.answers.pop(0)

    def can_read(self, timeout: float) -> bool:
        return bool(self.answers)


def test_what_is_told_in_one_shard_while_another_is_subscribed_to_is_not_lost() -> None:
    connection = Scripted(
        [b"ssubscribe", b"a", 1],
        [b"smessage", b"a", b"early"],
        [b"ssubscribe", b"b", 2],
        [b"smessage", b"b", b"later"],
        [b"sunsubscribe", b"a", 1],
    )
    server = RedisServer("redis+cluster://localhost/")
    subscription = Subscription(server, connection, (3, ("localhost", 1)))
    subscription.begin("SSUBSCRIBE", {"a": 3, "b": 4})
    assert connection.sent == [("SSUBSCRIBE", "a"), ("SSUBSCRIBE", "b")]
    assert subscription.has_data(0)
    assert (subscription.read(), subscription.read()) == ((3, b"early"), (4, b"later"))
    assert subscription.is_current
    assert subscription.read() is None
    assert not subscription.is_current  # the slot has another node
    assert not subscription.has_data(0)
