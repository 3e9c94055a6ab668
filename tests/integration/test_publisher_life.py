"""How publishers begin, and how they end: without a server, in a master, and uncollected."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.launch import START
from tests.integration.apps.places import PLACES, Place, place_of
from tests.interventions import broker_times, hub_held
from tests.redis_servers import SERVERS, RedisProcess, running
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    ChannelRule,
    ConfigError,
    Hub,
    HubConfig,
    Message,
    NotConnected,
    Publisher,
    RedisBackplane,
)
from ws_hub.backplane.redis_rules import RULES_SECONDS

RULES = [ChannelRule("kept:*", history_messages=100)]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place_of(request.param) as found:
        yield found


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    with running(request.param) as process:
        yield process


class Heard:
    """The data that the listeners of a hub get."""

    def __init__(self) -> None:
        self.data: list[Any] = []

    def __call__(self, message: Message) -> None:
        self.data.append(message.data)

    def wait_for(self, count: int) -> list[Any]:
        wait_until(lambda: len(self.data) >= count, START, f"{count} messages")
        return self.data


@contextlib.contextmanager
def application(address: str, *channels: str) -> Iterator[Heard]:
    heard = Heard()
    with Hub(HubConfig(rules=RULES), backplane=address) as hub:
        for channel in channels:
            hub.listen(channel, heard)
        yield heard


# --- the log handler -----------------------------------------------------------------------


def test_a_log_handler_says_once_that_nothing_is_there_and_begins_when_it_is(
    place: Place, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("tests.publisher_life")
    with Publisher(place.address) as publisher:
        handler: Any = publisher.log_handler("logs")
        log.addHandler(handler)
        try:
            for number in range(50):
                log.error("lost %d", number)
            told = [each for each in caplog.records if each.name.startswith("ws_hub")]
            assert len(told) == 1
            assert "until this changes: a Publisher found no rules" in told[0].getMessage()
            assert (handler.dropped, capsys.readouterr().err) == (50, "")
            with application(place.address, "logs") as heard:

                def arrives() -> bool:
                    log.error("here")
                    return bool(heard.data)

                wait_until(arrives, what="a record")
                assert heard.data[0]["data"]["message"] == "here"
        finally:
            log.removeHandler(handler)
    assert len([each for each in caplog.records if each.name.startswith("ws_hub")]) == 1


# --- publishers that nobody closes -----------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_publishers_that_are_dropped_pass_on_what_was_told_and_give_all_back(place: Place) -> None:
    with application(place.address, "news", "kept:a") as heard:
        before = descriptors(), threading.active_count()
        for number in range(8):
            with pytest.warns(ResourceWarning, match=r"unclosed Publisher\("):
                Publisher(place.address).send_event("said", number, channel="news")
                Publisher(place.address).send_event("said", number, channel="kept:a")
                gc.collect()
        found = [each["data"] for each in heard.wait_for(16)]
        assert sorted(found) == sorted([*range(8)] * 2)
        wait_until(lambda: threading.active_count() <= before[1], what="the end of the threads")
        # The hub has opened some of its own meanwhile; each publisher has six.
        wait_until(lambda: descriptors() < before[0] + 8, what="the end of the descriptors")


def test_a_publisher_that_is_collected_waits_for_no_lock_of_its_hub(place: Place) -> None:
    """Another thread may have it, and wait for one that the collecting thread has."""
    with application(place.address, "news") as heard:
        publisher = Publisher(place.address)
        publisher.send_event("said", 1, channel="news")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            with hub_held(publisher) as ended:
                del publisher
                gc.collect()
                assert not ended(0)
        assert ended(TIMEOUT)
        assert len(heard.wait_for(1)) == 1


def test_a_program_goes_on_without_its_publisher(place: Place) -> None:
    with application(place.address, "process:job") as heard:
        text = "import sys; print('begun', flush=True); sys.stdin.read(); print('done')"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            program = [sys.executable, "-c", text]
            assert Publisher(place.address).run_process(program, "job").wait(START) == 0
            assert heard.wait_for(4)[1:3] == ["begun", "done"]
            gc.collect()


# --- gunicorn's master ------------------------------------------------------------------------

_PRELOADED = """
from ws_hub import Publisher
live = Publisher({address!r})
live.send_event("said", "master", channel="news")

def app(environ, start_response):
    live.send_event("said", "worker", channel="news")
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]
"""


@pytest.mark.parametrize("hooks", [[], ["--config", "python:ws_hub.gunicorn"]])
def test_a_publisher_in_gunicorns_master_is_no_fault(place: Place, hooks: list[str]) -> None:
    (place.folder / "preloaded.py").write_text(_PRELOADED.format(address=place.address))
    command = [sys.executable, "-m", "gunicorn", "--preload", "-k", "gthread", "-w", "1", *hooks]
    command += ["--chdir", str(place.folder), "--bind", f"unix:{place.folder}/web", "preloaded:app"]
    with application(place.address, "news") as heard:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_until((place.folder / "web").exists, START, "the socket")
                _get(place.folder / "web")
            finally:
                process.terminate()
                _, log = process.communicate(timeout=START)
        assert [each["data"] for each in heard.wait_for(2)] == ["master", "worker"]
    assert "reaches nobody" not in log
    assert not [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line], log


def _get(path: Path) -> None:
    text = textwrap.dedent(f"""
        import socket
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect({str(path)!r})
            sock.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
    """)
    subprocess.run([sys.executable, "-c", text], check=True, timeout=START)


# --- a server that is away -------------------------------------------------------------------


def test_a_server_that_is_not_there_is_told_and_found_when_it_is(server: RedisProcess) -> None:
    server.kill()
    address = server.url("?prefix=app", user="app:secret@")
    with Publisher(address, rules=RULES) as publisher:
        for use in (publisher.peers, lambda: publisher.send_error("lost", timeout=0)):
            with pytest.raises(NotConnected, match="is not reached") as caught:
                use()
            assert "secret" not in str(caught.value) + repr(publisher)
    with Publisher(server.url("?prefix=app")) as publisher:
        with pytest.raises(NotConnected, match="published nothing"):
            publisher.send_error("lost")
        server.start()
        with application(server.url("?prefix=app"), "news") as heard:

            def arrives() -> bool:
                with contextlib.suppress(NotConnected):
                    publisher.send_event("said", 1, channel="news")
                return bool(heard.data)

            wait_until(arrives, what="a message")


def test_a_server_that_hangs_holds_up_the_first_use_no_longer_than_told(
    server: RedisProcess,
) -> None:
    server.stop()
    try:
        with broker_times(answer=60.0), Publisher(server.url(), timeout=0.3) as publisher:
            for timeout in (0, None, 0):
                # Not "is not reached": that is known after the time for an answer.
                with pytest.raises(NotConnected, match="not begun within"):
                    publisher.send_error("lost", timeout=timeout)
    finally:
        server.go_on()


def test_a_first_use_that_must_not_wait_begins(server: RedisProcess) -> None:
    with application(server.url(), "news") as heard, Publisher(server.url()) as publisher:
        publisher.send_event("said", 1, channel="news", timeout=0)
        assert heard.wait_for(1) == [{"event": "said", "data": 1}]


def test_threads_that_begin_at_once_have_one_hub(place: Place) -> None:
    with application(place.address, "news") as heard, Publisher(place.address) as publisher:
        together = threading.Barrier(8)

        def publish() -> None:
            together.wait(TIMEOUT)
            publisher.send_event("said", 1, channel="news")

        workers = [threading.Thread(target=publish) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(TIMEOUT)
        assert len(heard.wait_for(8)) == 8
        assert publisher.peers() == 1


# --- the rules on a server ---------------------------------------------------------------------


def seconds_left(server: RedisProcess) -> int:
    answer: bytes = server.ask("TTL", "ws:rules")
    return int(answer[1:])


def test_rules_are_renewed_and_put_back_where_the_server_has_lost_them(
    server: RedisProcess,
) -> None:
    with application(server.url()):
        assert server.ask("EXPIRE", "ws:rules", "100") == b":1\r\n"
        wait_until(lambda: seconds_left(server) > RULES_SECONDS - 100, what="a renewal")
        server.ask("FLUSHALL")
        wait_until(lambda: seconds_left(server) > 0, what="the rules")
        with Publisher(server.url()) as publisher:
            assert publisher.keeps("kept:a")
    assert seconds_left(server) > 0  # for what is published while nobody runs


def test_rules_are_left_once_a_late_server_is_there(server: RedisProcess) -> None:
    server.kill()
    with application(server.url()):
        server.start()
        wait_until(lambda: seconds_left(server) > 0, what="the rules")


def test_other_rules_are_warned_of_once_a_server_that_hung_answers(
    server: RedisProcess, caplog: pytest.LogCaptureFixture
) -> None:
    other = HubConfig(rules=[ChannelRule("kept:*", history_messages=7)])
    # The first one takes the silence for no end of its connection: so it still hears.
    with broker_times(silence=60.0), application(server.url()):
        wait_until(lambda: seconds_left(server) > 0, what="the rules")
        server.stop()
        with Hub(other, backplane=RedisBackplane(server.url())):
            server.go_on()
            wait_until(lambda: "run with other rules" in caplog.text, what="a warning")
    assert "history_messages=7 here, and history_messages=100 there" in caplog.text


def test_a_key_that_is_not_ours_is_told(server: RedisProcess) -> None:
    server.ask("RPUSH", "ws:rules", "x")
    with Publisher(server.url()) as publisher, pytest.raises(ConfigError, match="cannot be read"):
        publisher.peers()
