"""Prints, logs and statuses: lines that Go clients take, bars, and what counts as an end."""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import node
from tests.commands import command
from tests.harness import weight
from tests.integration.gohub import GoHub
from tests.recorder import Recorder
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub.backplane.publisher import AbstractPublisher
from ws_hub.cli.terminal import describe
from ws_hub.config import HubConfig
from ws_hub.errors import MessageEncodeError
from ws_hub.hub.hub import Hub
from ws_hub.lines import GOES_ON, MAX_PIECE, REPLACED, cut, join
from ws_hub.process.writers import Writer, log_handler, writer
from ws_hub.protocol.message import MAX_MESSAGE_BYTES, Message, encode
from ws_hub.reconnect.client import ReconnectingClient
from ws_hub.server.server import serve

GO_TAKES = 65_536


@pytest.fixture
def hub() -> Recorder:
    return Recorder()


# --- 89: a long line of which pieces are out ------------------------------------------------


def test_fault_89_another_threads_text_does_not_go_on_with_a_long_lines_piece(
    hub: Recorder,
) -> None:
    with Writer(hub, "p") as file:
        file.write("a" * 9_000)  # a piece is out
        elsewhere(lambda: file.write("other\n"))
        file.write("b\n")
    assert list(join(hub.lines())) == ["a" * MAX_PIECE, "other", "a" * (9_000 - MAX_PIECE) + "b"]


# --- 87: a bar that a thread of its own refreshes ------------------------------------------


def elsewhere(*functions: Any) -> None:
    """Call each on one thread that is over afterwards."""
    thread = threading.Thread(target=lambda: [each() for each in functions])
    thread.start()
    thread.join(5)


class Refresher:
    """A thread that writes when it is told to, and lives on."""

    def __init__(self) -> None:
        self._asked, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._text: str | None = None
        self.file: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def write(self, text: str) -> None:
        self._text = text
        self._asked.release()
        assert self._done.acquire(timeout=5)

    def end(self) -> None:
        self._text = None
        self._asked.release()
        self._thread.join(5)

    def _run(self) -> None:
        while self._asked.acquire() and self._text is not None:
            print(self._text, end="", file=self.file, flush=True)
            self._done.release()


@pytest.fixture
def refresher() -> Iterator[Refresher]:
    made = Refresher()
    yield made
    made.end()


@pytest.mark.parametrize("ends", ["thread", "file"])
def test_fault_087_no_stale_state_stays_below_a_finished_bar(
    hub: Recorder, refresher: Refresher, ends: str
) -> None:
    file = refresher.file = writer(hub, "p")
    print("\r 97%", end="", file=file, flush=True)
    refresher.write("\r 98%")
    print("\r100%", end="", file=file, flush=True)
    print(file=file)
    if ends == "thread":
        refresher.end()
        print("done", file=file)
    file.close()
    assert hub.lines() == ["100%", "done"][: 2 if ends == "thread" else 1]
    assert hub.texts()[:3] == [" 97%\r", " 98%\r", "100%\r"]


def test_fault_087_a_bar_of_another_thread_that_is_not_finished_stays(
    hub: Recorder, refresher: Refresher
) -> None:
    file = refresher.file = writer(hub, "p")
    refresher.write("\r 98%")
    print("a line", file=file)
    file.close()
    assert hub.lines() == ["a line", " 98%"]


def test_fault_087_two_bars_side_by_side_both_end(hub: Recorder, refresher: Refresher) -> None:
    file = refresher.file = writer(hub, "p")
    print("\ra 50%", end="", file=file, flush=True)
    refresher.write("\rb 50%")
    print("\ra 100%", end="", file=file, flush=True)
    refresher.write("\n")
    print(file=file)
    file.close()
    assert hub.lines() == ["b 50%", "a 100%"]


def test_fault_087_what_was_drawn_over_and_is_no_state_stays(
    hub: Recorder, refresher: Refresher
) -> None:
    file = refresher.file = writer(hub, "p")
    refresher.write("bar\rtext\nplain")
    print("\r100%", file=file)
    file.close()
    assert hub.lines() == ["text", "100%", "plain"]


def test_fault_087_the_line_of_a_dead_thread_is_sent_with_the_next(hub: Recorder) -> None:
    with writer(hub, "p") as file:
        elsewhere(lambda: print("theirs", end="", file=file))
        assert hub.texts() == []
        print("mine", file=file)
        assert hub.texts() == ["theirs", "mine"]
        elsewhere(lambda: print("more", end="", file=file))
        file.flush()
        assert hub.texts() == ["theirs", "mine", "more"]


@pytest.mark.parametrize("gap", ["", "flush", "empty"])
@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("\r| working", "\rOK done\n"),
        ("\r| working", "\r\x1b[KOK done\n"),
        ("| working\r", "OK done\n"),
        ("| working\r", "OK done\r\n"),
    ],
)
def test_fault_087_the_last_state_of_a_dead_thread_is_drawn_over_by_the_next_write(
    hub: Recorder, state: str, end: str, gap: str
) -> None:
    with writer(hub, "p") as file:
        for _ in range(3):
            elsewhere(lambda: print(state, end="", file=file, flush=True))
            if gap == "flush":
                file.flush()
            elif gap == "empty":
                print(end="", file=file)
            print(end, end="", file=file)
    assert hub.lines() == [end.strip("\r\n").removeprefix("\x1b[K")] * 3
    assert hub.texts().count("| working\r") == 3


@pytest.mark.parametrize(
    ("state", "end", "lines"),
    [
        ("\r| working", "", ["| working"]),
        ("| working\r", "", ["| working"]),
        ("\r| working", "log\n", ["| working", "log"]),
        ("\r| working", "log\n\r5%", ["| working", "log", "5%"]),
        ("\r| working", "log\r\n", ["| working", "log"]),
        ("| working\r", "\n", ["| working", ""]),
        ("bar\r\nplain", "\rOK\n", ["bar", "plain", "OK"]),
        ("\r" + "x" * (MAX_PIECE + 1), "\rOK\n", ["x" * (MAX_PIECE + 1), "OK"]),
    ],
)
def test_fault_087_what_is_not_drawn_over_stays_though_its_thread_is_dead(
    hub: Recorder, state: str, end: str, lines: list[str]
) -> None:
    with writer(hub, "p") as file:
        elsewhere(lambda: print(state, end="", file=file))
        file.flush()
        print(end, end="", file=file)
    assert hub.lines() == lines


def test_fault_087_a_state_before_a_return_is_drawn_over_by_any_text(
    hub: Recorder, refresher: Refresher
) -> None:
    file = refresher.file = writer(hub, "p")
    refresher.write("98%\r")
    print("done", file=file)
    refresher.end()
    print("more", file=file)
    file.close()
    assert hub.lines() == ["done", "more"]


@pytest.mark.parametrize("after", [["done"], []])
@pytest.mark.parametrize("cleared", ["\r   \r", "\r\x1b[2K", "\r\x1b[K", "\r\x1b[0m \x1b[K\r"])
def test_fault_087_a_cleared_bar_leaves_no_line(
    hub: Recorder, cleared: str, after: list[str]
) -> None:
    with writer(hub, "p") as file:
        elsewhere(lambda: print("\r98%", end="", file=file), lambda: file.write(cleared))
        for line in after:
            print(line, file=file)
    assert hub.lines() == after
    assert after or not "".join(hub.texts()[-1:]).strip()


def test_fault_087_nothing_is_kept_of_dead_threads(hub: Recorder) -> None:
    file = Writer(hub, "p")
    empty, of_one = weight(file, without=hub), 0
    for _ in range(300):
        elsewhere(lambda: print("\r1%", end="", file=file, flush=True))
        kept = weight(file, without=hub) - empty
        of_one = of_one or kept
        assert 0 < kept <= 2 * of_one
    file.close()
    assert weight(file, without=hub) == empty
    gc.collect()


def test_fault_087_a_finished_line_of_a_dead_thread_leaves_nothing(hub: Recorder) -> None:
    file = Writer(hub, "p")
    empty = weight(file, without=hub)
    elsewhere(lambda: print("whole", file=file))
    assert weight(file, without=hub) == empty
    file.close()
    assert hub.texts() == ["whole"]


# --- 88: the status decides, not an exit code ----------------------------------------------

GO_RUNNING = {"exitCode": 0, "status": "running"}  # as every Go hub sends it
STATUSES: list[tuple[dict[str, Any], str, str, str, bool]] = [
    # data, in a terminal, state and text on the page, whether it is the end
    (GO_RUNNING, "is running", "running", "running", False),
    ({"status": "exited", "exitCode": 0}, "exited 0", "ok", "exited 0", True),
    ({"status": "exited", "exitCode": 3}, "exited 3", "failed", "exited 3", True),
    (
        {"status": "exited", "exitCode": -9, "signal": "SIGKILL"},
        "was killed by SIGKILL",
        "failed",
        "killed by SIGKILL",
        True,
    ),
    (
        {"status": "exited", "exitCode": -15, "signal": "SIGTERM", "reason": "timeout"},
        "was killed by SIGTERM at its timeout",
        "failed",
        "killed by SIGTERM at its timeout",
        True,
    ),
    (
        {"status": "exited", "exitCode": 0, "reason": "idle_timeout"},
        "exited 0 after its idle timeout",
        "ok",
        "exited 0 after its idle timeout",
        True,
    ),
    (
        {"status": "exited", "exitCode": None, "error": "taken"},
        "exited, code unknown: taken",
        "unknown",
        "exited, code unknown",
        True,
    ),
    ({"status": "exited"}, "exited, code unknown", "unknown", "exited, code unknown", True),
    ({"status": "failed", "exitCode": 0}, "failed", "failed", "failed", True),
    ({"status": "failed", "exitCode": 2}, "failed 2", "failed", "failed 2", True),
    ({"status": "lost", "error": "gone"}, "lost: gone", "failed", "lost", True),
    ({"status": "paused", "exitCode": 0}, "is paused", "other", "paused", False),
    ({"status": ["exited"], "exitCode": 0}, "is ['exited']", "other", "unknown", False),
    ({"exitCode": 0}, "is None", "other", "unknown", False),
]


class Ends(AbstractPublisher):
    def __init__(self) -> None:
        super().__init__()
        self.ends: list[bool] = []

    def _publish(self, *_: object, ends_channel: bool = False, **options: object) -> None:
        self.ends.append(ends_channel)


@pytest.mark.parametrize(("data", "line", "state", "text", "over"), STATUSES)
def test_fault_088_the_status_decides_what_is_final(
    data: dict[str, Any], line: str, state: str, text: str, over: bool
) -> None:
    message = Message("process_status", "process:b", data=data)
    assert describe(message) == f"process:b {line}"
    ends = Ends()
    ends.send_to_channel("process:b", message)
    if isinstance(data.get("status"), str):
        extra = {key: value for key, value in data.items() if key not in ("status", "exitCode")}
        ends.send_process_status("b", data["status"], data.get("exitCode"), extra=extra)
    assert set(ends.ends) == {over}


@pytest.mark.skipif(node.NODE is None, reason="needs node")
def test_fault_088_the_status_decides_on_the_page(tmp_path: Path) -> None:
    given = json.dumps([data for data, *_ in STATUSES])
    told = node.run(
        node.copy_modules(tmp_path),
        'import {describeStatus} from "./messages.js";\n'
        f"console.log(JSON.stringify({given}.map(describeStatus)));\n",
    )
    found = [(each["state"], each["text"]) for each in told]
    assert found == [(state, text) for _, _, state, text, _ in STATUSES]


def test_fault_088_tail_of_a_go_hub_says_that_a_program_runs() -> None:
    with GoHub() as go:
        with command("tail", go.url, "process:b") as tail:
            tail.saw("connected to", "err")  # within what a Python needs to start
            go.wait_subscribed("process:b")
            go.send_to_channel("process:b", {"type": "process_status", "data": GO_RUNNING})
            tail.saw("process:b is running", "err")
            ended = {"exitCode": 0, "status": "exited"}
            go.send_to_channel("process:b", {"type": "process_status", "data": ended})
            tail.saw("process:b exited 0", "err")
            tail.signal(15)
            tail.end()


# --- 89: lines that a Go client takes ------------------------------------------------------

WORST = ["x", "\x01", "😀", '"', "é"]


@pytest.mark.parametrize("character", WORST)
def test_fault_089_every_sender_cuts_a_line(hub: Recorder, character: str) -> None:
    line = character * 70_000
    hub.send_process_output("p" * 128, line)
    hub.send_process_lines("p" * 128, ["before", line, "after"])
    hub.send_to_channel("process:p", Message("process_output", process_id="p", data=line))
    hub.broadcast(Message("process_output", process_id="p", data=line))
    with writer(hub, "p" * 128) as file:
        print(line, file=file)
    assert hub.lines() == [line, "before", line, "after", line, line, line]
    assert max(len(encode(message)) for message in hub.messages) < GO_TAKES - 100  # room for `seq`


@pytest.mark.parametrize("character", WORST)
def test_fault_089_texts_of_a_status_and_of_a_log_record_are_shortened(
    hub: Recorder, character: str
) -> None:
    text = character * 70_000
    hub.send_process_status("p", "failed", extra={"error": text, "signal": text, "usage": {"a": 1}})
    assert hub.messages[0].data["error"].startswith(character)
    assert hub.messages[0].data["usage"] == {"a": 1}
    handler = log_handler(hub, "logs")
    record = logging.LogRecord(text, logging.INFO, "", 1, text, None, None, sinfo=text)
    record.exc_text, record.threadName = text, text
    handler.handle(record)
    handler.close()
    assert max(len(encode(message)) for message in hub.messages) < GO_TAKES - 100


def test_fault_089_a_short_status_is_as_it_was(hub: Recorder) -> None:
    error = "x" * MAX_PIECE
    hub.send_process_status("p", "failed", extra={"error": error})
    assert hub.messages[0].data == {"status": "failed", "error": error}


def test_fault_089_a_client_with_the_limit_of_go_gets_all_of_it() -> None:
    with Hub() as hub, serve(hub) as server:
        got: list[Message] = []
        gone: list[int] = []
        client = ReconnectingClient(
            server.url,
            max_message_size=GO_TAKES,
            on_message=got.append,
            on_disconnect=lambda code, *_: gone.append(code),
        )
        client.subscribe("process:b", since=0)
        with client:
            hub.send_process_output("b", "\x01" * 70_000)
            hub.send_process_output("b", "end")
            wait_until(lambda: got and got[-1].data == "end", 10)
        assert list(join(m.data for m in got if m.type == "process_output")) == [
            "\x01" * 70_000,
            "end",
        ]
        assert set(gone) <= {1000, 1001, 1005, 1006}
        assert len(gone) <= 1  # its own end


def test_fault_089_what_no_client_takes_is_refused_and_not_kept() -> None:
    with Hub(HubConfig()) as hub, serve(hub) as server:
        too_much = "x" * MAX_MESSAGE_BYTES
        for send in (
            lambda: hub.send_event("big", too_much),
            lambda: hub.send_event("big", too_much, channel="process:b"),
            lambda: hub.send_error(too_much),
            lambda: hub.send_to_user("ann", Message("own", data=too_much)),
        ):
            with pytest.raises(MessageEncodeError, match="over the limit"):
                send()
        hub.send_process_output("b", "next")
        peer = RawPeer("127.0.0.1", server.port)
        with peer.sock:
            peer.send_json({"type": "subscribe", "channel": "process:b"})
            assert peer.recv_json()["data"] == "next"
            peer.close()


@given(st.text(), st.integers(1, 5), st.sampled_from(["", GOES_ON]))
def test_fault_089_pieces_are_put_together_again(text: str, most: int, mark: str) -> None:
    text = text.replace(REPLACED, "").rstrip(GOES_ON) + mark
    pieces = cut(text, most)
    assert max(map(len, pieces)) <= most + 1
    assert list(join([*pieces, "."])) == list(join([text, "."]))


def test_fault_089_a_state_stays_a_state() -> None:
    assert cut("abcdefg\r", 3) == ["abc\r"]
    assert cut("abc\r", 3) == ["abc\r"]


# --- 92: what a log record carries ---------------------------------------------------------


def test_fault_092_the_stack_of_a_record_comes_along(hub: Recorder) -> None:
    log = logging.Logger("shop")
    handler = log_handler(hub, "logs")
    log.addHandler(handler)
    # From a thread of its own, whose stack is short: of a long one the end is kept.
    thread = threading.Thread(target=log.warning, args=("where",), kwargs={"stack_info": True})
    thread.start()
    thread.join(TIMEOUT)
    handler.close()
    data = hub.messages[0].data["data"]
    assert data["stack"].startswith("Stack (most recent call last)")
    assert "self._target(*self._args, **self._kwargs)" in data["stack"]
    assert "Stack (most recent" in describe(hub.messages[0])


def test_fault_092_a_traceback_that_came_as_text_is_kept(hub: Recorder) -> None:
    """As of a record that was pickled and sent here."""
    handler = log_handler(hub, "logs")
    record = logging.LogRecord("shop", logging.ERROR, "", 1, "failed", None, None)
    record.exc_text = "Traceback ...\nKeyError: 'sku'"
    handler.handle(record)
    handler.close()
    assert hub.messages[0].data["data"]["exception"] == record.exc_text
