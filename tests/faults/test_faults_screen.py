r"""Faults of output that is drawn over: carriage returns, cursor movements, status rows."""

from __future__ import annotations

import contextlib
import os
import pty
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import command
from tests.integration.test_cli import shell
from tests.integration.test_process_hub import Viewer as ProcessViewer
from tests.integration.test_process_hub import viewer
from tests.programs import python
from tests.redis_servers import SERVERS, running
from tests.support import TIMEOUT, wait_until, without_usage
from ws_hub import Hub, HubConfig, SqliteHistory, serve
from ws_hub.backplane.redis import RedisBackplane
from ws_hub.lines import Lines

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

STORES = ["memory", "sqlite", *SERVERS]


@pytest.fixture(params=STORES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Settings of a hub with each history store; called again for one that shares it."""
    with contextlib.ExitStack() as stack:
        if request.param in SERVERS:
            process = stack.enter_context(running(request.param))
            yield lambda: HubConfig(backplane=RedisBackplane(process.url()))
        elif request.param == "sqlite":
            yield lambda: HubConfig(history=SqliteHistory(tmp_path / "hub.db"))
        else:
            yield HubConfig


def texts(data: bytes) -> list[str]:
    """The texts of the wire of some output that is read at once."""
    lines = Lines()
    return [*lines.feed(data), *lines.finish()]


def rows(each: ProcessViewer) -> list[str]:
    """What a viewer shows, by the numbers of lines."""
    shown = {}
    for message in each.messages:
        if message["type"] == "process_output":
            shown[message["line"]] = message["data"].rstrip("\r")
    return [text for _, text in sorted(shown.items())]


# --- fault 78: states take no place in the history -------------------------------------------

STATES = """
for at in range(50): print("line", at)
for at in range(20_000): print(f"state {at}", end="\\r")
print("done".ljust(20))
"""


def test_fault_78_many_states_cost_a_late_viewer_no_line(settings: Any) -> None:
    with Hub(settings()) as hub, serve(hub) as server:
        hub.run_process(python(STATES), "p").wait(30)
        with viewer(server, "p") as late:
            late.until_over()
    assert [without_usage(m["data"]) for m in late.messages if m["type"] == "process_status"] == [
        {"status": "running"},
        {"status": "exited", "exitCode": 0},
    ]
    assert [text.rstrip() for text in late.texts] == [*(f"line {at}" for at in range(50)), "done"]
    assert [m["seq"] for m in late.messages] == list(range(1, 54))


def test_fault_78_a_late_viewer_gets_the_newest_state_of_an_unfinished_line(settings: Any) -> None:
    code = "import signal; print('one'); print('1%\\r2%', end='', flush=True); signal.pause()"
    with Hub(settings()) as hub, serve(hub) as server:
        with viewer(server, "p") as each, hub.run_process(python(code), "p"):
            while each.texts[-1:] != ["2%\r"]:
                each.until_output()
            assert "seq" not in each.messages[-1]
            with viewer(server, "p") as late:
                while late.texts[-1:] != ["2%\r"]:
                    late.until_output()
                assert late.texts == ["one", "2%\r"]
        with viewer(server, "p") as last:
            last.until_over()
        assert last.texts == ["one", "2%"]  # what is unfinished at the end counts as a line


@pytest.mark.parametrize("settings", STORES[1:], indirect=True)
def test_fault_78_another_process_shows_the_newest_state_too(settings: Any) -> None:
    code = "import signal; print('Go on? ', end='', flush=True); signal.pause()"
    with Hub(settings()) as hub, Hub(settings()) as other, serve(hub), serve(other) as server:
        with viewer(server, "p") as early, hub.run_process(python(code), "p"):
            early.until_output()
            with viewer(server, "p") as late:
                late.until_output()
        assert early.texts == late.texts == ["Go on? \r"]


def test_fault_78_a_prints_state_is_not_kept_either() -> None:
    with Hub() as hub, serve(hub) as server:
        hub.send_process_status("p", "running")
        for at in range(20_000):
            hub.send_process_output("p", f"{at}%\r")
        with viewer(server, "p") as late:
            late.until_output()
        assert [m["data"] for m in late.messages] == [{"status": "running"}, "19999%\r"]


# --- fault 79: movements within a row --------------------------------------------------------


@pytest.mark.parametrize(
    "back",
    [
        "\x1b[1G\x1b[0K",
        "\x1b[1G\x1b[2K",
        "\x1b[`\x1b[K",
        "\x1b[9D\x1b[K",
        "\r\x1b[2K",
        "\x1b[2K\x1b[G",
    ],
)
def test_fault_79_a_node_spinner_leaves_the_row_that_a_terminal_shows(back: str) -> None:
    assert texts(f"{back}-{back}\\{back}done".encode())[-1] == "done"


# --- fault 80: the last rows are drawn anew --------------------------------------------------

TWO = """printf 'a: 0\\nb: 0\\n'
exec 3<"$0"
for at in 1 2; do read go <&3; printf '\\033[2A\\033[2Ka: '$at'\\n\\033[2Kb: '$at'\\n'; done"""


@pytest.mark.parametrize("in_terminal", [False, True])
def test_fault_80_rows_that_are_drawn_anew_stay_two_rows(tmp_path: Path, in_terminal: bool) -> None:
    fifo = tmp_path / "steps"
    os.mkfifo(fifo)
    with Hub() as hub, serve(hub) as server:
        with viewer(server, "p") as each:
            process = hub.run_process(["sh", "-c", TWO, str(fifo)], "p", pty=in_terminal)
            with fifo.open("w") as steps:
                for seen in ("b: 0", "a: 1\r"):
                    while seen not in each.texts:
                        each.until_output()
                    print("go", file=steps, flush=True)
            process.wait(TIMEOUT)
            each.until_over()
        with viewer(server, "p") as late:
            late.until_over()
    assert rows(each) == rows(late) == ["a: 2", "b: 2"]
    assert "a: 1\r" in each.texts
    assert "a: 1\r" not in late.texts


@pytest.mark.parametrize("late", [False, True])
def test_fault_80_tail_into_a_pipe_writes_each_row_once_in_its_last_state(late: bool) -> None:
    rows = "printf 'a: 0\\n\\033[31mb: 0\\033[0m\\n\\033[2A\\033[2Ka: 1\\n\\nc\\n'; cat"
    with Hub() as hub, serve(hub) as server, contextlib.ExitStack() as stack:
        if late:
            hub.run_process(["sh", "-c", rows], "p").wait(TIMEOUT)
        tail = stack.enter_context(command("tail", server.url, "process:p"))
        if not late:
            wait_until(lambda: hub.has_subscribers("process:p"))
            hub.run_process(["sh", "-c", rows], "p").wait(TIMEOUT)
        tail.saw("c")
        assert tail.out == ["a: 1", "b: 0", "c"]


def test_fault_80_text_in_a_status_row_is_none_of_the_lines() -> None:
    region = "\n\x1b7\x1b[0;23r\x1b8\x1b[1A"
    bar = "\x1b7\x1b[24;0f\x1b[42mProgress: [ 50%]\x1b[0m\x1b8"
    end = "\n\x1b7\x1b[0;24r\x1b8\x1b[1A\x1b[J"
    lines = Lines(columns=80)
    shown = [lines.feed(f"Reading\r\n{region}{bar}Unpacking a\r\n".encode()), lines.partial()]
    shown.append(lines.feed(f"Unpacking b\r\n{end}Done\r\n".encode()))
    shown.append(lines.finish())
    status = [
        text for each in shown for text, line in zip(each, each.numbers, strict=True) if not line
    ]
    assert status == ["\x1b[0;42mProgress: [ 50%]\x1b[0m\r", "\r"]
    last = {
        line: text for each in shown for text, line in zip(each, each.numbers, strict=True) if line
    }
    assert list(last.values()) == ["Reading", "Unpacking a", "Unpacking b", "Done"]


def test_fault_80_a_full_screen_program_is_said_to_be_one() -> None:
    data = b"$ top\n\x1b[?1049h\x1b[H\x1b[2Jmuch\x1b[5;5Hmore\x1b[?1049lafter\n"
    assert texts(data) == ["$ top", "(a full-screen program, which is not shown here)", "after"]


# --- fault 81: text stays until something overwrites it --------------------------------------


@pytest.mark.parametrize(
    ("data", "row"),
    [
        ("copied 9 files\r\x1b[0m\n", "copied 9 files"),
        ("copied 9 files\r\x1b[?25h\n", "copied 9 files"),
        ("100%\b\b\b\b\n", "100%"),
        ("100%\b\b\b\b 50%\n", " 50%"),
        ("12345\rab\n", "ab345"),
        ("\x1b(0lqk\x1b(B\n", "\u250c\u2500\u2510"),
        ("\x1b)0a\x0eq\x0fq\n", "a\u2500q"),
    ],
)
def test_fault_81_text_stays_until_something_overwrites_it(data: str, row: str) -> None:
    assert texts(data.encode())[-1] == row


@pytest.mark.parametrize("mark", ["\x0b", "\x0c"])
def test_fault_81_a_form_feed_glues_no_words(mark: str) -> None:
    assert texts(f"one{mark}two\n".encode()) == ["one", "   two"]


# --- fault 82: the mirror of `ws-hub run` ----------------------------------------------------


def test_fault_82_the_mirror_in_a_terminal_is_what_the_program_wrote() -> None:
    import fcntl
    import termios

    parts = ["%0200d\\r' 7", "\\033[2Kup\\n'", "\\033[1Aover\\n'"]
    wide = "; sleep 0.3; ".join(f"printf '{part}" for part in parts)
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        with command("run", "--port", "0", *shell(wide), stdout=theirs) as it:
            assert it.end() == 0
        seen = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert seen.replace("\r\r\n", "\r\n") == f"{7:0200d}\r\x1b[2Kup\r\n\x1b[1Aover\r\n"
