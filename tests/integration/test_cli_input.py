"""`ws-hub run` and its input: typed in real terminals, with job control, and piped."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import is_alive
from tests.support import wait_until

ROOT = Path(__file__).resolve().parents[2]
BOUND = 30.0

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX terminals")

RUN = [sys.executable, "-m", "ws_hub", "run", "--port", "0"]


class Terminal:
    """A real terminal, the controlling one of a command in a session of its own."""

    def __init__(self, argv: list[str]) -> None:
        self.ours, self.theirs = pty.openpty()
        self.resize(80, 24)
        self.before = self.settings()
        self.text = ""
        name = os.ttyname(self.theirs)
        self.process = subprocess.Popen(
            # A session leader that opens a terminal gets it as its controlling one.
            ["sh", "-c", 'exec <>"$0" >&0 2>&0; exec "$@"', name, *argv],
            start_new_session=True,
            cwd=ROOT,
            env={**os.environ, "PS1": "$ ", "COLUMNS": "", "LINES": ""},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.ours, 65536)
            except OSError:  # nobody has it open any more
                return
            self.text += data.decode(errors="replace")
            if "\x1bover" in self.text:
                return

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.theirs)

    @property
    def is_raw(self) -> bool:
        return not self.settings()[3] & termios.ICANON

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def saw(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.text.count(text) >= times, BOUND, f"{text!r} in {self.text!r}")

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        return self.process.wait(BOUND)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(BOUND)
        os.write(self.theirs, b"\x1bover")
        self._reader.join(BOUND)
        os.close(self.theirs)
        os.close(self.ours)


@contextlib.contextmanager
def terminal(*argv: str) -> Iterator[Terminal]:
    made = Terminal(list(argv))
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def running(script: str, *options: str) -> Iterator[Terminal]:
    """Run a script by `ws-hub run` in a terminal of its own; wait until it has begun."""
    with terminal(*RUN, *options, "--", "sh", "-c", f"echo 'begun'; {script}") as made:
        made.saw("begun")
        if "--no-pty" not in options:
            wait_until(lambda: made.is_raw, BOUND, "raw mode")
        yield made


def children(pid: int) -> dict[str, int]:
    """Return the children of a process by the ends of their command lines' first words."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for each in (task / "children").read_text().split():
            words = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
            found[words[0].decode()] = int(each)
    return found


# --- a terminal of its own -----------------------------------------------------------------


def test_what_is_typed_reaches_the_program_and_is_shown_once() -> None:
    with running('read line; echo "got <$line>"') as it:
        it.type("hello\r")
        it.saw("got <hello>")
        assert it.end() == 0
        assert it.settings() == it.before
        assert it.text.count("hello") == 2  # by the program's terminal, and by the program


def test_a_program_in_raw_mode_gets_each_key() -> None:
    with running("stty raw -echo; echo 'is raw'; dd bs=1 count=3 2>/dev/null | od -An -tx1") as it:
        it.saw("is raw")
        for key in ("\x03", "\x1a", "\r"):
            it.type(key)
        it.saw("03 1a 0d")
        assert it.end() == 0
        assert it.settings() == it.before


def test_ctrl_c_is_the_programs_and_ends_the_run_with_it() -> None:
    with running("sleep 60") as it:
        it.type("\x03")
        assert it.end() == 130
        assert it.settings() == it.before


def test_ctrl_c_that_a_program_handles_ends_nothing() -> None:
    with running("trap 'echo caught' INT; while :; do sleep 0.05; done") as it:
        it.type("\x03")
        it.saw("caught")
        it.type("x")
        it.type("\x03")
        it.saw("caught", 2)
        assert it.process.poll() is None
        it.process.terminate()
        assert it.end() == 143
        assert it.settings() == it.before


def test_ctrl_c_three_times_ends_a_program_that_ignores_it() -> None:
    with running("trap '' INT TERM; while :; do sleep 0.05; done") as it:
        it.type("\x03\x03\x03")
        assert it.end() == 130
        assert it.settings() == it.before


def test_ctrl_d_ends_the_input() -> None:
    with running('while read line; do echo "got <$line>"; done; echo over') as it:
        it.type("one\r\x04")
        it.saw("over")
        assert it.end() == 0
        assert "got <one>" in it.text


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -9),
        (signal.SIGSEGV, -11),
    ],
)
def test_the_terminal_is_restored_however_we_end(number: int, code: int) -> None:
    with running("sleep 60") as it:
        helpers = children(it.process.pid)
        it.process.send_signal(number)
        assert it.end() == code
        wait_until(lambda: it.settings() == it.before, BOUND, "the settings as they were")
        wait_until(lambda: not any(map(is_alive, helpers.values())), BOUND, f"the end of {helpers}")


def test_the_terminal_is_restored_when_the_program_is_killed() -> None:
    with running("sleep 60") as it:
        (program,) = (
            pid for name, pid in children(it.process.pid).items() if not name.startswith("ws-hub")
        )
        os.kill(program, signal.SIGKILL)
        assert it.end() == 137
        assert it.settings() == it.before


def test_the_terminal_is_restored_while_the_page_is_served_after_the_exit() -> None:
    with running("read line", "--wait") as it:
        it.type("\r")
        it.saw("the page is served until Ctrl-C")
        assert it.settings() == it.before
        assert "ws-hub-terminal" not in children(it.process.pid)
        it.type("\x03")
        assert it.end() in (0, 130)


def test_settings_of_our_own_are_those_that_come_back() -> None:
    with terminal("sh", "-c", 'stty -echo erase "#"; exec "$@"', "sh", *RUN, "--", "cat") as it:
        wait_until(lambda: it.is_raw, BOUND, "raw mode")
        it.type("\x04")
        assert it.end() == 0
        assert it.settings()[6][termios.VERASE] == b"#"
        assert not it.settings()[3] & termios.ECHO
        assert it.settings()[3] & termios.ICANON


def test_a_command_that_cannot_start_leaves_the_terminal_alone() -> None:
    with terminal(*RUN, "--", "/no/such/program") as it:
        assert it.end() == 127
        assert it.settings() == it.before


def test_the_size_of_the_programs_terminal_follows_ours() -> None:
    script = "trap 'stty size' WINCH; stty size; echo ready; while :; do sleep 0.05; done"
    with running(script) as it:
        it.saw("ready")
        assert "24 80" in it.text
        it.resize(100, 40)
        it.saw("40 100")
        it.resize(30, 10)
        it.saw("10 30")
        it.process.terminate()
        assert it.end() == 143


def test_the_size_is_not_in_the_programs_environment() -> None:
    # ncurses and others take that for the size, whatever becomes of the terminal.
    with terminal(*RUN, "--", "sh", "-c", 'echo "<$COLUMNS$LINES>"') as it:
        assert it.end() == 0
        it.saw("<>")
        assert it.settings() == it.before


def test_keys_that_a_program_does_not_read_do_not_hold_up_its_end() -> None:
    with running("stty -echo; echo ready; sleep 60") as it:
        it.saw("ready")
        writer = threading.Thread(target=it.type, args=("line\r" * 20_000,))
        writer.start()
        wait_until(lambda: it.process.poll() is None, BOUND)
        it.process.terminate()
        assert it.end() == 143
        termios.tcflush(it.theirs, termios.TCIFLUSH)
        writer.join(BOUND)
        while writer.is_alive():
            termios.tcflush(it.theirs, termios.TCIFLUSH)
        assert it.settings() == it.before


# --- job control ---------------------------------------------------------------------------


@pytest.fixture
def shell() -> Iterator[Terminal]:
    with terminal("bash", "--norc", "--noprofile", "--noediting", "-i") as made:
        made.saw("$ ")
        yield made
        made.process.send_signal(signal.SIGHUP)
        made.end()


def line(script: str) -> str:
    return f"{shlex.join([*RUN, '--', 'sh', '-c', script])}\r"


def test_a_stopped_run_gives_the_terminal_back_and_takes_it_again(shell: Terminal) -> None:
    before = shell.settings()
    shell.type(line("echo be''gun; read line; echo got '<'$line'>'; read line"))
    shell.saw("begun")
    wait_until(lambda: shell.is_raw, BOUND, "raw mode")
    (ours,) = [pid for name, pid in children(shell.process.pid).items() if name == sys.executable]
    os.kill(ours, signal.SIGTSTP)
    shell.saw("Stopped")
    assert shell.settings() == before
    shell.type("echo in the she''ll\r")
    shell.saw("in the shell")
    shell.type("fg\r")
    wait_until(lambda: shell.is_raw, BOUND, "raw mode")
    shell.type("hello\r")
    shell.saw("got <hello>")
    # A stop that cannot be handled: the shell sets the terminal, and we do again.
    os.kill(ours, signal.SIGSTOP)
    shell.saw("Stopped", 2)
    wait_until(lambda: not shell.is_raw, BOUND, "the settings of the shell")
    shell.type("fg\r")
    wait_until(lambda: shell.is_raw, BOUND, "raw mode")
    shell.type("\r")
    shell.saw("$ ", 5)  # what is typed before that is the program's
    shell.type("echo it was $?.\r")
    shell.saw("it was 0.")
    assert shell.settings() == before


def test_a_run_in_the_background_leaves_the_terminal_alone(shell: Terminal) -> None:
    before = shell.settings()
    shell.type(line("echo be''gun; sleep 0.5; echo o''ver").replace("\r", " &\r"))
    shell.saw("begun")
    assert shell.settings() == before
    shell.type("echo in the she''ll\r")
    shell.saw("in the shell")
    shell.saw("over")
    shell.type("wait; echo it was $?.\r")
    shell.saw("it was 0.")
    assert "Stopped" not in shell.text
    assert shell.settings() == before


def test_a_run_that_is_continued_in_the_background_leaves_the_terminal_alone(
    shell: Terminal,
) -> None:
    before = shell.settings()
    shell.type(line("echo be''gun; sleep 60"))
    shell.saw("begun")
    wait_until(lambda: shell.is_raw, BOUND, "raw mode")
    (ours,) = [pid for name, pid in children(shell.process.pid).items() if name == sys.executable]
    os.kill(ours, signal.SIGTSTP)
    shell.saw("Stopped")
    shell.type("bg\r")
    shell.saw("&")
    shell.type("echo in the she''ll\r")
    shell.saw("in the shell")
    assert shell.settings() == before
    shell.type("kill %1; wait; echo o''ver\r")
    shell.saw("over")
    assert shell.settings() == before


# --- without a terminal of its own ---------------------------------------------------------


def test_lines_are_typed_to_a_program_without_a_terminal() -> None:
    with running('while read line; do echo "got <$line>"; done; echo over', "--no-pty") as it:
        assert it.settings() == it.before
        it.type("one\r")
        it.saw("got <one>")
        it.type("two\r\x04")
        it.saw("over")
        assert it.end() == 0
        assert "got <two>" in it.text
        assert it.settings() == it.before


def test_ctrl_c_ends_a_program_without_a_terminal() -> None:
    with running("sleep 60", "--no-pty") as it:
        it.type("\x03")
        assert it.end() == 130


@pytest.mark.parametrize("option", ["--pty", "--no-pty"])
def test_a_pipe_is_the_input_and_ends_with_it(option: str) -> None:
    script = 'test -t 0 || echo "no terminal"; while read x; do echo "got <$x>"; done; echo over'
    done = subprocess.run(
        [*RUN, option, "--", "sh", "-c", script],
        input="one\ntwo\n", capture_output=True, text=True, timeout=BOUND, cwd=ROOT,
    )  # fmt: skip
    lines = re.sub(r"\r", "", done.stdout).splitlines()
    assert lines == ["no terminal", "got <one>", "got <two>", "over"], done.stderr
    assert done.returncode == 0


def test_a_pipe_that_stays_open_ends_nothing_and_is_not_waited_for() -> None:
    with subprocess.Popen(
        [*RUN, "--", "sh", "-c", "read x; echo got $x"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT,
    ) as it:  # fmt: skip
        assert it.stdin is not None and it.stdout is not None
        it.stdin.write(b"one\n")
        it.stdin.flush()
        assert it.stdout.read() == b"got one\n"
        assert it.wait(BOUND) == 0


def test_a_program_that_reads_nothing_leaves_the_input_to_the_next() -> None:
    words = shlex.join([*RUN, "--", "echo"])
    done = subprocess.run(
        ["sh", "-c", f"while read x; do {words} $x; done"],
        input="one\ntwo\n", capture_output=True, text=True, timeout=BOUND, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["one", "two"]


@pytest.mark.parametrize("option", ["--pty", "--no-pty"])
def test_without_input_each_read_returns_the_end(option: str) -> None:
    done = subprocess.run(
        [*RUN, option, "--", "sh", "-c", "test -t 0 && echo terminal; cat; cat; echo over"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.split() == [*(["terminal"] if option == "--pty" else []), "over"]
