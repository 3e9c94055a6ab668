"""Which stream a line is of, and when it was read: on the wire, kept, shared, for late viewers."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.live import live
from tests.integration.test_process_hub import Viewer, viewer
from tests.programs import python
from tests.redis_servers import SERVERS, running
from tests.support import TIMEOUT, wait_until
from ws_hub import (
    ChannelRule,
    Hub,
    HubConfig,
    LocalBackplane,
    Message,
    Publisher,
    ReconnectingClient,
    SqliteHistory,
    serve,
)
from ws_hub.backplane.redis import RedisBackplane
from ws_hub.protocol.message import parse_timestamp

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

NO_HISTORY = (ChannelRule("process:*"),)
SHARED = ["sqlite", "local", *SERVERS]


@contextlib.contextmanager
def settings_of(name: str, **fields: Any) -> Iterator[Any]:
    """Yield what makes the settings of a hub; called again for one that shares its channels."""
    with contextlib.ExitStack() as stack:
        if name in SERVERS:
            process = stack.enter_context(running(name))
            yield lambda: HubConfig(backplane=RedisBackplane(process.url()), **fields)
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp"))
        if name == "local":
            yield lambda: HubConfig(backplane=LocalBackplane(Path(folder) / "hub"), **fields)
        elif name == "sqlite":
            yield lambda: HubConfig(history=SqliteHistory(Path(folder) / "hub.db"), **fields)
        else:
            yield lambda: HubConfig(**fields)


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def output(each: Viewer) -> list[dict[str, Any]]:
    return [m for m in each.messages if m["type"] == "process_output"]


def moment(message: dict[str, Any]) -> float:
    """When a message was read, POSIX seconds."""
    if "time" in message:
        return float(message["time"]) / 1e6
    return parse_timestamp(message["timestamp"]).timestamp()


# Each line has left its pipe before the next one is written.
BOTH = """
import fcntl, os, struct, termios
def say(fd, text):
    os.write(fd, text)
    while struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"    "))[0]:
        pass
say(1, b"one\\n"); say(2, b"two\\n"); say(1, b"three\\n"); say(2, b"four\\n")
"""


@pytest.mark.parametrize("name", ["memory", *SHARED])
def test_lines_of_both_streams_say_which_live_and_late(name: str) -> None:
    with settings_of(name) as settings, Hub(settings()) as hub, serve(hub) as server:
        with viewer(server, "p") as live_one:
            hub.run_process(python(BOTH), "p").wait(TIMEOUT)
            live_one.until_over()
        with viewer(server, "p") as late:
            late.until_over()
    for each in (live_one, late):
        assert [(m["line"], m["data"], m.get("stream")) for m in output(each)] == [
            (1, "one", None),
            (2, "two", "stderr"),
            (3, "three", None),
            (4, "four", "stderr"),
        ]
    assert output(live_one) == output(late)
    assert not any("time" in m for m in output(late))


@pytest.mark.parametrize("fields", [{}, {"rules": NO_HISTORY}], ids=["history", "none"])
@pytest.mark.parametrize("name", ["local", *SERVERS])
def test_another_process_tells_the_stream_and_the_time(name: str, fields: Any) -> None:
    with settings_of(name, **fields) as settings:
        with Hub(settings()) as hub, Hub(settings()) as other:
            with serve(hub) as near, serve(other) as far:
                with viewer(near, "p") as here, viewer(far, "p") as there:
                    wait_until(lambda: hub.count("process:p") == 2)
                    hub.send_process_output("p", "x", stream="stderr", time=1.5)
                    hub.send_process_status("p", "exited", 0)
                    here.until_over()
                    there.until_over()
    (seen,) = output(there)
    assert output(here) == [seen]
    assert (seen["stream"], seen["time"]) == ("stderr", 1_500_000)


REDRAWN = """
import sys
steps = open(sys.argv[1])
for text in "a: 0\\nb: 0\\n", "\\x1b[2Aa: 1\\n\\n", "\\x1b[2Aa: 1\\nb: 1\\n":
    sys.stdout.write(text)
    sys.stdout.flush()
    steps.readline()
"""


@pytest.mark.parametrize("name", ["memory", "sqlite"])
def test_a_row_that_is_drawn_anew_has_the_time_of_its_last_change(
    name: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "steps"
    os.mkfifo(fifo)
    with settings_of(name) as settings, Hub(settings()) as hub, serve(hub) as server:
        with viewer(server, "p") as each:
            process = hub.run_process([*python(REDRAWN), str(fifo)], "p")
            with fifo.open("w") as steps:
                for wanted in ("b: 0", "a: 1\r", "b: 1\r"):
                    while wanted not in each.texts:
                        each.until_output()
                    print(file=steps, flush=True)
            process.wait(TIMEOUT)
            each.until_over()
        with viewer(server, "p") as late:
            late.until_over()
    states = {m["data"]: m for m in output(each)}
    kept = {m["data"]: m for m in output(late)}
    assert [m["line"] for m in output(late)] == [1, 2, 1, 2]
    for row in ("a: 1", "b: 1"):
        assert moment(kept[row]) == moment(states[row + "\r"])
    assert moment(states["a: 1\r"]) < moment(states["b: 1\r"])
    assert "time" in kept["a: 1"]  # it is published when the program has ended
    times = [m["timestamp"] for m in late.messages]
    assert times == sorted(times)  # by which a history finds messages


def test_lines_of_one_read_have_one_time_and_times_do_not_go_back() -> None:
    with Hub() as hub, serve(hub) as server:
        script = "i=0; while [ $i -lt 200 ]; do echo $i; echo e$i >&2; i=$((i+1)); done"
        with viewer(server, "p") as each:
            hub.run_process(shell(script), "p").wait(TIMEOUT)
            each.until_over()
    times = [m["timestamp"] for m in each.messages]
    assert times == sorted(times)
    moments = [moment(m) for m in output(each)]
    assert all(b >= a for a, b in itertools.pairwise(moments))


def test_text_without_a_newline_has_the_time_of_its_reading() -> None:
    with Hub() as hub, serve(hub) as server, viewer(server, "p") as each:
        code = "import signal; print('one'); print('Go on? ', end='', flush=True); signal.pause()"
        with hub.run_process(python(code), "p"):
            while "Go on? \r" not in each.texts:
                each.until_output()
        each.until_over()
    first, state, last = output(each)
    assert (first["data"], state["data"], last["data"]) == ("one", "Go on? \r", "Go on? ")
    assert moment(first) <= moment(state) == moment(last) < moment(each.messages[-1])


def test_clients_get_stream_and_time_in_their_callbacks() -> None:
    got: list[Message] = []
    over = threading.Event()

    def take(message: Message) -> None:
        got.append(message)
        if message.type == "process_status":
            over.set()

    when = datetime.datetime(2026, 2, 20, 1, 17, 56, 123456, tzinfo=datetime.UTC)
    with live() as site, ReconnectingClient(site.server.url, on_message=take) as client:
        client.subscribe("process:p", wait=TIMEOUT)
        site.hub.send_process_lines("p", ["a", "b"], stream="stderr", times=[when, None])
        site.hub.send_process_output("p", "c")
        site.hub.send_process_status("p", "exited", 0)
        assert over.wait(TIMEOUT)
        page = client.history("process:p", since=0)
    assert [each for each in page.messages if each.type != "process_status"] == got[:3]
    assert [(each.data, each.stream) for each in got[:3]] == [
        ("a", "stderr"),
        ("b", "stderr"),
        ("c", ""),
    ]
    assert got[0].read_at == when
    assert [each.time for each in got[1:3]] == [None, None]
    assert all(
        each.read_at is not None and each.read_at == parse_timestamp(each.timestamp)
        for each in got[1:]
    )


def test_writers_and_publishers_name_the_stream() -> None:
    with settings_of("local") as settings, Hub(settings()) as hub, serve(hub) as server:
        directory = settings().backplane
        with viewer(server, "p") as each:
            with hub.writer("p", stream="stderr") as file:
                print("printed", file=file)
            with Publisher(LocalBackplane(directory.directory)) as publisher:
                with publisher.writer("p", stream="stderr") as file:
                    print("from outside", file=file)
                publisher.send_process_output("p", "plain", wait=TIMEOUT)
                publisher.send_process_output("p", "bad", stream="stderr", time=2, wait=TIMEOUT)
                process = publisher.run_process(shell("echo oops >&2"), "q")
                process.wait(TIMEOUT)
                publisher.send_process_status("p", "exited", 0)
            each.until_over()
        with viewer(server, "q") as program:
            program.until_over()
    assert [(m["data"], m.get("stream"), m.get("time")) for m in output(each)] == [
        ("printed", "stderr", None),
        ("from outside", "stderr", None),
        ("plain", None, None),
        ("bad", "stderr", 2_000_000),
    ]
    assert [(m["data"], m["stream"]) for m in output(program)] == [("oops", "stderr")]
