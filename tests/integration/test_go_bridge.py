"""Hubs that share a Redis or Valkey server with Go hubs."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests import redis_hubs
from tests.go_captures import CAPTURES, GO_SOURCE, Capture
from tests.integration.apps.live import Live
from tests.redis_hubs import ready
from tests.redis_servers import SERVERS, RedisProcess, documented_rights, running
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import ChannelRule, Hub, HubConfig, Message, Publisher, RedisBackplane
from ws_hub.backplane.go_bridge import MAX_GO_BYTES
from ws_hub.protocol.message import parse_timestamp
from ws_hub.wsgi import servers

pytestmark = pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server")

ROOT = Path(__file__).parents[2]
GO = "?go=1"
RULES = [
    ChannelRule("kept", history_messages=10),
    ChannelRule("state", keyed=True),
    ChannelRule("room", presence=True),
    ChannelRule("process:*"),
]
NAMES = sorted({each.name for each in CAPTURES} - {""})


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with running(request.param) as process:
        yield process


hubs = functools.partial(redis_hubs.hubs, rules=RULES)


class GoEar:
    """Hears what a Go hub with the prefix "ws" hears, in bytes."""

    def __init__(self, server: RedisProcess) -> None:
        self._client = redis.Redis(port=server.port)
        self._pubsub = self._client.pubsub(ignore_subscribe_messages=False)
        self._pubsub.psubscribe("ws:broadcast", "ws:channel:*")
        for _ in range(2):
            assert self._pubsub.get_message(timeout=TIMEOUT)["type"] == "psubscribe"

    def next(self) -> tuple[str, bytes]:
        """Return the next channel and body."""
        found = self._pubsub.get_message(timeout=TIMEOUT)
        assert found is not None, "nothing was published"
        return found["channel"].decode(), found["data"]

    def data(self, count: int) -> list[Any]:
        """Return the data of the next messages."""
        return [json.loads(self.next()[1])["message"]["data"] for _ in range(count)]

    def until(self, end: object) -> list[Any]:
        """Return the data of the messages before one with the data `end`."""
        found: list[Any] = []
        while found[-1:] != [end]:
            found += self.data(1)
        return found[:-1]

    def close(self) -> None:
        self._pubsub.close()
        self._client.close()


@pytest.fixture
def ear(server: RedisProcess) -> Iterator[GoEar]:
    with contextlib.closing(GoEar(server)) as found:
        yield found


def publish(server: RedisProcess, channel: str | bytes, body: bytes) -> None:
    with redis.Redis(port=server.port) as client:
        client.publish(channel, body)


def go_says(server: RedisProcess, data: Any, name: str = "") -> None:
    """Publish as a Go hub does."""
    message = {"type": "event", "data": data, "timestamp": "2026-02-20T01:17:56Z"}
    body = json.dumps({"sourceId": GO_SOURCE, "message": message}, separators=(",", ":"))
    publish(server, f"ws:channel:{name}" if name else "ws:broadcast", body.encode())


def data_of(peer: RawPeer, count: int) -> list[Any]:
    return [peer.recv_json()["data"] for _ in range(count)]


# --- from Go -------------------------------------------------------------------------------


def test_what_go_publishes_reaches_the_clients_of_each_hub_once(server: RedisProcess) -> None:
    captures = [each for each in CAPTURES if "{now}" not in each.text]
    with hubs(server.url(GO), server.url(GO)) as (here, there):
        with here.subscribed(*NAMES) as near, there.subscribed(*NAMES) as far:
            for capture in captures:
                publish(server, capture.channel, capture.body)
            go_says(server, "end")
            for peer in (near, far):
                found = [peer.recv_text() for _ in captures]
                assert found == [capture.text for capture in captures]
                assert peer.recv_json()["data"] == "end"
            # What one had told the other again would come before this.
            here.hub.broadcast(Message("event", data="marker"))
            assert data_of(far, 1) == data_of(near, 1) == ["marker"]
        for live in (here, there):
            stats = live.hub.stats()
            assert stats.bus_received > len(captures)
            assert stats.bus_invalid == stats.bus_lost == 0


def test_what_go_publishes_is_for_the_subscribers_of_that_channel_alone(
    server: RedisProcess,
) -> None:
    with hubs(server.url(GO)) as (here,), here.subscribed("a") as one, here.subscribed("b") as two:
        heard: list[Any] = []
        listener = here.hub.listen("a", lambda message: heard.append(message.data))
        go_says(server, 1, "a")
        go_says(server, 2, "b")
        go_says(server, "all")
        assert data_of(one, 2) == [1, "all"]
        assert data_of(two, 2) == [2, "all"]
        wait_until(lambda: heard == [1], what="the listener")
        listener.close()


def test_a_hub_that_was_not_told_of_go_hears_and_tells_nothing_of_it(
    server: RedisProcess, ear: GoEar
) -> None:
    with hubs(server.url(), server.url(GO)) as (without, speaks):
        with without.subscribed("news") as near, speaks.subscribed("news") as far:
            go_says(server, "from Go", "news")
            assert data_of(far, 1) == ["from Go"]
            assert ear.data(1) == ["from Go"]
            without.hub.send_to_channel("news", Message("event", data="unheard"))
            assert data_of(far, 1) == ["unheard"]
            speaks.hub.send_to_channel("news", Message("event", data="for all"))
            assert data_of(near, 2) == ["unheard", "for all"]
            assert ear.data(1) == ["for all"]


def test_what_go_publishes_to_a_channel_with_history_is_delivered_and_not_kept(
    server: RedisProcess, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "logged", {})  # once in a process
    with hubs(server.url(GO), server.url(GO)) as (here, there):
        with here.subscribed("kept", "state") as near, there.subscribed("kept") as far:
            go_says(server, "no key", "state")
            go_says(server, "from Go", "kept")
            here.hub.send_to_channel("kept", Message("event", data="kept"))
            for peer in (near, far):  # they come by two ways, and in any order
                found = [peer.recv_json() for _ in range(2)]
                seqs = {each["data"]: each.get("seq") for each in found}
                assert seqs == {"from Go": None, "kept": 1}
        page = there.hub.history("kept")
        assert [each.data for each in page.messages] == ["kept"]
    assert "or a Go hub does" in caplog.text


def test_hostile_payloads_reach_nobody_and_are_counted(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    good = b'{"type":"event","data":0}'
    bodies = [
        b"",
        b"not-json",
        b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00}\x94.",
        b'{"sourceId":"a","message":{"type":"event","data":"\xff"}}',
        b'{"sourceId":"a","message":{"type":"event","data":NaN}}',
        b'{"sourceId":"a","message":{"type":"event","data":%b%b}}' % (b"[" * 30_000, b"]" * 30_000),
        b'{"sourceId":"a","message":{"type":7}}',
        b'{"sourceId":["a"],"message":%b}' % good,
        b'{"sourceId":"a","message":{"type":"event","data":"%b"}}' % (b"x" * MAX_GO_BYTES),
    ]
    names = [b"", b"a b", b"*", b"a\nb", b"\xff", b"process:", b"x" * 257]
    with hubs(server.url(GO)) as (here,), here.subscribed("news") as peer:
        for body in bodies:
            publish(server, b"ws:broadcast", body)
            publish(server, b"ws:channel:news", body)
        for name in names:
            publish(server, b"ws:channel:" + name, b'{"sourceId":"a","message":%b}' % good)
        count = 2 * len(bodies) + len(names)
        wait_until(lambda: here.hub.stats().bus_invalid == count, what="all refused")
        go_says(server, "good", "news")
        assert data_of(peer, 1) == ["good"]
        stats = here.hub.stats()
        assert (stats.bus_received, stats.bus_lost, stats.internal_errors) == (1, 0, 0)
        assert not stats.bus_down
    assert 0 < caplog.text.count("ignored what is no notice") < count


def test_go_is_heard_again_after_the_server_was_away(server: RedisProcess) -> None:
    with hubs(server.url(GO)) as (here,), here.subscribed("news") as peer:
        server.kill()
        wait_until(lambda: here.hub.stats().bus_down, what="the fault")
        server.start()
        ready([here], 0)
        go_says(server, "back", "news")
        assert data_of(peer, 1) == ["back"]


def test_two_databases_are_two_applications_and_one_to_go(server: RedisProcess, ear: GoEar) -> None:
    with hubs(server.url(GO), server.url("?go=1&db=3"), peers=0) as (here, there):
        with here.subscribed("news") as near, there.subscribed("news") as far:
            here.hub.send_to_channel("news", Message("event", data="of the first"))
            assert ear.data(1) == ["of the first"]
            go_says(server, "from Go", "news")
            assert data_of(near, 2) == ["of the first", "from Go"]
            assert data_of(far, 1) == ["from Go"]


# --- to Go ---------------------------------------------------------------------------------


def test_what_a_hub_publishes_comes_once_to_go_and_once_to_each_hub(
    server: RedisProcess, ear: GoEar
) -> None:
    with hubs(server.url(GO), server.url(GO)) as (here, there):
        with here.subscribed("news", "process:b") as near:
            with there.subscribed("news", "process:b") as far:
                here.hub.send_to_channel("news", Message("event", data=1))
                here.hub.send_process_lines("b", ["two", "three"])
                here.hub.broadcast(Message("event", data=4))
                expected = [1, "two", "three", 4]
                found = [ear.next() for _ in expected]
                assert data_of(near, 4) == data_of(far, 4) == expected
                there.hub.send_event("five", 5)
                expected.append({"event": "five", "data": 5})
                found.append(ear.next())
                assert data_of(near, 1) == data_of(far, 1) == expected[-1:]
                go_says(server, "end")  # behind what would come twice
                assert data_of(near, 1) == data_of(far, 1) == ear.data(1) == ["end"]
        assert [channel for channel, _ in found] == [
            "ws:channel:news",
            "ws:channel:process:b",
            "ws:channel:process:b",
            "ws:broadcast",
            "ws:broadcast",
        ]
        envelopes = [json.loads(body) for _, body in found]
        assert [each["message"]["data"] for each in envelopes] == expected
        assert not any(["channel" in each["message"] for each in envelopes])
        assert [each["message"].get("processId") for each in envelopes[:3]] == [None, "b", "b"]
        sources = [each["sourceId"] for each in envelopes]
        assert all([re.fullmatch("[0-9a-f]{32}", each) for each in sources])
        assert len({*sources[:4]}) == 1 != len({*sources})
        wait_until(lambda: here.hub.stats().go_told == 4, what="the count")
        assert (there.hub.stats().go_told, there.hub.stats().go_refused) == (1, 0)


def test_what_a_publisher_publishes_comes_once_to_go_and_once_to_each_hub(
    server: RedisProcess, ear: GoEar
) -> None:
    with hubs(server.url(GO)) as (live,), live.subscribed("news") as peer:
        with Publisher(server.url(GO)) as publisher:
            publisher.send_to_channel("news", Message("event", data="here"))
            publisher.broadcast(Message("event", data="to all"))
        assert data_of(peer, 2) == ["here", "to all"]
        assert ear.data(2) == ["here", "to all"]
        live.hub.broadcast(Message("event", data="marker"))  # what came twice would come before
        assert (data_of(peer, 1), ear.data(1)) == (["marker"], ["marker"])


def test_the_bytes_for_go_are_those_of_go(server: RedisProcess, ear: GoEar) -> None:
    with hubs(server.url(GO)) as (here,):
        message = Message("event", data={"a": [1, "ü"]}, timestamp="2026-02-20T01:17:56Z")
        here.hub.send_to_channel("news", message)
        channel, body = ear.next()
        envelope = json.loads(body)
        source, number = envelope["sourceId"].encode(), envelope["n"]
        assert (channel, body) == (
            "ws:channel:news",
            b'{"sourceId":"%b","message":{"type":"event","data":{"a":[1,"\xc3\xbc"]},'
            b'"timestamp":"2026-02-20T01:17:56Z"},"n":%d}' % (source, number),
        )


def test_history_keys_presence_and_users_are_not_for_go(server: RedisProcess, ear: GoEar) -> None:
    with hubs(server.url(GO), server.url(GO)) as (here, there):
        with there.subscribed("kept", "state", "room") as far:
            here.hub.send_to_channel("kept", Message("event", data="kept"))
            here.hub.send_event("cpu", 40, channel="state", key="cpu")
            here.hub.send_to_user("ann", Message("event", data="for ann"))
            here.hub.disconnect("ann")
            with here.subscribed("room"):
                wait_until(lambda: there.hub.presence("room").connections == 2)
            here.hub.broadcast(Message("event", data="end"))
            assert ear.data(1) == ["end"]
            while far.recv_json().get("data") != "end":
                pass
        assert here.hub.stats().go_refused == 0


def test_what_go_would_drop_reaches_the_other_hubs_and_is_counted(
    server: RedisProcess, ear: GoEar, caplog: pytest.LogCaptureFixture
) -> None:
    large = "x" * MAX_GO_BYTES
    with hubs(server.url(GO), server.url(GO)) as (here, there), there.subscribed("news") as far:
        for _ in range(3):
            here.hub.send_to_channel("news", Message("event", data=large))
        here.hub.send_to_channel("news", Message("event", data="end"))
        assert data_of(far, 4) == [large, large, large, "end"]
        assert ear.data(1) == ["end"]
        wait_until(lambda: here.hub.stats().go_told == 1, what="the count")
        assert here.hub.stats().go_refused == 3
        assert here.hub.stats().bus_lost == 0
    assert caplog.text.count("a message reaches no client of a Go hub") == 1


def test_around_faults_of_the_server_nothing_comes_to_go_twice(server: RedisProcess) -> None:
    with hubs(server.url(GO)) as (here,), contextlib.closing(GoEar(server)) as ear:
        server.stop()
        for number in range(100):
            here.hub.broadcast(Message("event", data=number))
        # The sender gives up after three seconds, before the listener does.
        wait_until(lambda: here.hub.stats().bus_down, what="the fault")
        server.go_on()
        ready([here], 0)
        here.hub.broadcast(Message("event", data="end"))
        found = ear.until("end")
        assert found == sorted(set(found))
        assert here.hub.stats().bus_lost == 100 - len(found)


def test_what_waits_while_the_server_is_away_comes_to_go_afterwards(server: RedisProcess) -> None:
    with hubs(server.url(GO)) as (here,):
        server.kill()
        wait_until(lambda: here.hub.stats().bus_down, what="the fault")
        here.hub.broadcast(Message("event", data="meanwhile"))
        server.start()
        with contextlib.closing(GoEar(server)) as ear:
            ready([here], 0)
            here.hub.broadcast(Message("event", data="end"))
            assert ear.until("end") in ([], ["meanwhile"])  # it may be told before the ear is there
            wait_until(lambda: here.hub.stats().go_told == 2, what="both")
            assert here.hub.stats().bus_lost == 0


def test_what_a_hub_publishes_last_comes_to_go_before_its_end(
    server: RedisProcess, ear: GoEar
) -> None:
    with hubs(server.url(GO)) as (here,):
        for number in range(50):
            here.hub.broadcast(Message("event", data=number))
    assert ear.data(50) == [*range(50)]


def test_threads_that_publish_have_their_order_at_go(server: RedisProcess, ear: GoEar) -> None:
    def say(live: Live, first: int) -> None:
        for number in range(first, first + 200):
            live.hub.send_to_channel("news", Message("event", data=number), timeout=TIMEOUT)

    with hubs(server.url(GO), server.url(GO)) as both:
        threads = [
            threading.Thread(target=say, args=(live, 1000 * index))
            for index, live in enumerate(both)
        ]
        for thread in threads:
            thread.start()
        found = ear.data(400)
        for thread in threads:
            thread.join(TIMEOUT)
    for first in (0, 1000):
        assert [each for each in found if first <= each < first + 1000] == [
            *range(first, first + 200)
        ]


# --- who may -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_the_rights_that_are_documented_are_enough(name: str) -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (more,) = re.findall(r"ACL SETUSER app (\+psubscribe .*?)```", text, re.DOTALL)
    with running(name, "--requirepass", "secret") as server:
        with redis.Redis(port=server.port, password="secret") as client:
            client.execute_command("ACL", "SETUSER", "app", *documented_rights())
            client.execute_command("ACL", "SETUSER", "app", *more.split())
            with hubs(server.url(GO, user="app:right@")) as (here,):
                with here.subscribed("news") as peer:
                    client.publish("ws:channel:news", CAPTURES[1].body)
                    assert peer.recv_text() == CAPTURES[1].text
                    here.hub.broadcast(Message("event", data=1))
                    wait_until(lambda: here.hub.stats().go_told == 1, what="the message")


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_does_not_let_go_be_told_is_warned_of(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rights = "on nopass ~* resetchannels &ws:bus &ws:broadcast &ws:channel:* +@all -psubscribe"
    with running(name) as server:
        with redis.Redis(port=server.port) as client:
            client.execute_command("ACL", "SETUSER", "default", *rights.split())
        bus = RedisBackplane(server.url(GO))
        with Hub(HubConfig(backplane=bus)) as hub:
            assert hub.stats().bus_down
    assert "psubscribe" in caplog.text


# --- a Go program --------------------------------------------------------------------------


class GoProgram:
    """`apps/go_bridge.go`, which encodes and decodes with Go's own encoding/json."""

    def __init__(self, program: Path, server: RedisProcess) -> None:
        self._process = subprocess.Popen(
            [program, f"{server.host}:{server.port}", "ws", GO_SOURCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._line() == b"ready\n"

    def publish(self, capture: Capture) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(capture.command)
        self._process.stdin.flush()

    def heard(self) -> dict[str, str]:
        """Return what it says of the next message that is not its own."""
        while True:
            found: dict[str, str] = json.loads(self._line())
            if found.get("dropped") != "own":
                return found

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.kill()
        self._process.wait(TIMEOUT)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Go program, or skip the test where there is no Go."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go on this machine")
    program = tmp_path_factory.mktemp("go") / "go_bridge"
    source = ROOT / "tests" / "integration" / "apps" / "go_bridge.go"
    subprocess.run([go, "build", "-o", program, source], check=True)
    return program


@pytest.fixture
def go(go_program: Path, server: RedisProcess) -> Iterator[GoProgram]:
    with contextlib.closing(GoProgram(go_program, server)) as found:
        yield found


def test_go_writes_the_captures_byte_for_byte(go: GoProgram, ear: GoEar) -> None:
    for capture in CAPTURES:
        go.publish(capture)
        assert ear.next() == (capture.channel.decode(), capture.body)


def test_go_and_two_hubs_hear_each_other_once(go: GoProgram, server: RedisProcess) -> None:
    texts = ["plain", "<b>R&D</b>", "a\u2028b\u2029", 'Grüße \U0001f680 "q" \\ \t\x7f\x01', ""]
    with hubs(server.url(GO), server.url(GO)) as (here, there):
        with here.subscribed(*NAMES) as near, there.subscribed(*NAMES) as far:
            for capture in CAPTURES:
                go.publish(capture)
            for peer in (near, far):
                got = [peer.recv_json() for _ in CAPTURES]
                assert [each.get("data") for each in got] == [
                    json.loads(capture.tail).get("data") for capture in CAPTURES
                ]
            for text in texts:
                here.hub.send_process_output("build-42", text)
            for peer in (near, far):
                assert data_of(peer, len(texts)) == texts
            for text in texts:
                found = go.heard()
                assert found["channel"] == "ws:channel:process:build-42"
                frame = json.loads(found["frame"])
                assert frame.pop("timestamp")
                assert frame == {
                    "type": "process_output",
                    "channel": "process:build-42",
                    "processId": "build-42",
                    "data": text,
                }
            there.hub.send_event("saved", {"id": 7, "none": None, "list": [1.5, True]})
            for peer in (near, far):
                assert peer.recv_json()["data"]["event"] == "saved"
        found = go.heard()
        assert found["channel"] == "ws:broadcast"
        assert json.loads(found["frame"])["data"]["data"] == {
            "id": 7,
            "none": None,
            "list": [1.5, True],
        }


def test_go_takes_a_line_of_stderr_without_its_stream_and_its_time(
    go: GoProgram, server: RedisProcess
) -> None:
    with hubs(server.url(GO), server.url(GO)) as (here, there):
        with there.subscribed("process:build-42") as far:
            here.hub.send_process_output("build-42", "oops", stream="stderr", time=1.5)
            message = far.recv_json()
            assert (message["stream"], message["time"]) == ("stderr", 1_500_000)
        frame = json.loads(go.heard()["frame"])
        # Go leaves out the zeros at the end of a fraction.
        assert parse_timestamp(frame.pop("timestamp")) == parse_timestamp(message["timestamp"])
        assert frame == {
            "type": "process_output",
            "channel": "process:build-42",
            "processId": "build-42",
            "data": "oops",
        }


@pytest.mark.parametrize("character", ["x", "<", "\u2028", "ü"])
def test_go_takes_all_that_it_is_sent_and_its_clients_too(
    go: GoProgram, server: RedisProcess, character: str
) -> None:
    with hubs(server.url(GO)) as (here,):
        low, high = 1, 2 * MAX_GO_BYTES
        while high - low > 1:  # the longest that is sent
            size = (low + high) // 2
            before = here.hub.stats()
            here.hub.send_to_channel("news", Message("event", data=character * size))
            wait_until(lambda before=before: _tried(here) > before.go_told + before.go_refused)  # type: ignore[misc]
            if here.hub.stats().go_told > before.go_told:
                found = go.heard()
                assert len(found["frame"].encode()) <= MAX_GO_BYTES
                low = size
            else:
                high = size
        assert low > 10_000


def _tried(live: Live) -> int:
    stats = live.hub.stats()
    return stats.go_told + stats.go_refused
