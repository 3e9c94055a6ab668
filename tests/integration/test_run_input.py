"""`ws-hub run -`: a pipe, a file or a terminal as the input, and its viewers."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.commands import BOUND, ROOT, Command, command, run, viewer
from tests.recorder import Recorder
from tests.support import RawPeer, wait_until
from ws_hub import Hub
from ws_hub.process.piped import stream_input

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

RUN = ("run", "--port", "0", "--id", "b", "-")


def write(it: Command, text: str) -> None:
    assert it.process.stdin is not None
    it.process.stdin.write(text)
    it.process.stdin.flush()


def texts_to(peer: RawPeer, last: object) -> list[object]:
    """Return the data of what a viewer gets, up to the last."""
    found: list[object] = []
    while not found or found[-1] != last:
        found.append(peer.recv_json()["data"])
    return found


def test_a_pipe_is_passed_on_and_streamed_to_its_end() -> None:
    with command(*RUN, stdin=subprocess.PIPE) as it, viewer(it, "process:b") as peer:
        assert peer.recv_json()["data"] == {"status": "running"}
        write(it, "one\n")
        assert peer.recv_json()["data"] == "one"
        assert it.saw("one")
        write(it, "10%\r")
        assert peer.recv_json()["data"] == "10%\r"
        write(it, "20%\nlast")
        assert it.process.stdin is not None
        it.process.stdin.close()
        end = {"status": "exited", "exitCode": 0}
        final = [each for each in texts_to(peer, end) if not str(each).endswith("\r")]
        assert final == ["20%", "last", end]
        assert peer.recv_close()[0] == 1001
        assert (it.end(), it.out) == (0, ["one", "20%", "last"])


def test_a_file_is_an_input(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("".join(f"line {number}\n" for number in range(5000)))
    with file.open() as stdin, command(*RUN[:-1], "--wait", "-", stdin=stdin.fileno()) as it:
        it.saw("b exited 0; the page is served until Ctrl-C", "err")
        url = f"http://127.0.0.1:{it.port}/api/channels"
        with urllib.request.urlopen(url, timeout=BOUND) as response:
            assert json.load(response)["channels"] == ["process:b"]
        it.signal(signal.SIGTERM)
        assert (it.end(), it.out) == (0, file.read_text().splitlines())


def test_the_channel_of_an_input_is_named_input_unless_named() -> None:
    code, out, err = run("run", "--port", "0", "-")  # /dev/null
    assert (code, out, len(err)) == (0, [], 1)
    with command("run", "--port", "0", "--wait", "-") as it:
        it.saw("input exited 0", "err")
        it.signal(signal.SIGINT)
        assert it.end() == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-", "make"), "- streams the standard input and takes no command"),
        (("--no-pty", "-"), "- starts no program: leave --pty and --no-pty out"),
    ],
)
def test_an_input_takes_no_command_and_no_terminal(arguments: tuple[str, ...], text: str) -> None:
    code, _, err = run("run", *arguments)
    assert code == 2
    assert len(err) == 1 and text in err[0]


def test_behind_dashes_a_dash_is_a_program() -> None:
    assert run("run", "--port", "0", "--", "-")[0] == 127


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_the_rest_of_the_input_is_read(number: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        hub = Recorder()
        process = stream_input(hub, theirs.fileno(), "b")
        process.ask_to_end(number)  # what a signal to the command does first
        ours.sendall(b"last words\n")
        ours.shutdown(socket.SHUT_WR)
        assert process.wait(BOUND) == -number
        name = signal.Signals(number).name
        assert [each.data for each in hub.messages] == [
            {"status": "running"},
            "last words",
            {"status": "exited", "exitCode": -number, "signal": name},
        ]


def test_a_second_signal_ends_the_reading_of_an_input_that_goes_on() -> None:
    with command(*RUN, stdin=subprocess.PIPE) as it, viewer(it, "process:b") as peer:
        assert peer.recv_json()["data"] == {"status": "running"}
        it.signal(signal.SIGINT)
        it.signal(signal.SIGINT)
        end = {"status": "exited", "exitCode": -signal.SIGINT, "signal": "SIGINT"}
        assert peer.recv_json()["data"] == end
        assert it.end() == 128 + signal.SIGINT
    assert not any("Traceback" in line for line in it.err)


def test_a_closed_output_does_not_end_the_reading() -> None:
    command = f"seq 50000 | {sys.executable} -m ws_hub run --port 0 - ; echo $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"{{ {command}; }} | head -n 1"],
        cwd=ROOT, capture_output=True, text=True, timeout=BOUND,
    )  # fmt: skip
    assert done.stdout == "1\n"
    assert done.stderr.splitlines()[1:] == ["0"]


def test_in_a_terminal_the_input_is_written_as_it_is() -> None:
    ours, theirs = pty.openpty()
    try:
        with command(*RUN, stdin=subprocess.PIPE, stdout=theirs) as it:
            write(it, "10%\r20%\x1b[K\n")
            assert it.process.stdin is not None
            it.process.stdin.close()
            assert it.end() == 0
        assert os.read(ours, 65536) == b"10%\r20%\x1b[K\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_an_input_that_another_reader_empties_is_not_at_its_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        hub = Recorder()
        process = stream_input(hub, theirs.fileno(), "b")
        ours.sendall(b"one\n")
        wait_until(lambda: hub.lines() == ["one"], BOUND)
        ours.shutdown(socket.SHUT_WR)
        assert process.wait(BOUND) == 0
        assert list(hub.statuses()) == [
            {"status": "running"}, {"status": "exited", "exitCode": 0},
        ]  # fmt: skip


@pytest.mark.parametrize("ending", ["close", "kill"])
def test_an_input_that_goes_on_is_given_up(ending: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        hub = Recorder()
        process = stream_input(hub, theirs.fileno(), "b")
        getattr(process, ending)()
        number = signal.SIGTERM if ending == "close" else signal.SIGKILL
        assert process.wait(BOUND) == -number
        theirs.sendall(b"still open")  # a duplicate was read
        assert ours.recv(100) == b"still open"


def test_without_descriptors_the_input_is_not_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()

    def none_left() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    try:
        with Hub() as hub, monkeypatch.context() as patch:
            patch.setattr(os, "pipe", none_left)
            with pytest.raises(OSError, match="open files"):
                stream_input(hub, reader, "x")
        os.close(reader)
        with pytest.raises(BrokenPipeError):  # nobody has a copy of its end
            os.write(writer, b"x")
    finally:
        os.close(writer)
