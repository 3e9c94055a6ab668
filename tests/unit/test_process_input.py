"""Real programs that are written to, with and without a terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.programs import python
from tests.recorder import Recorder
from tests.support import TIMEOUT, wait_until
from ws_hub.errors import ConfigError
from ws_hub.process import InputClosed, InputTimeout
from ws_hub.process.process import Process, run_process

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

both = pytest.mark.parametrize("pty", [False, True])


def start(hub: Recorder, argv: list[str], name: str = "p", **options: Any) -> Process:
    return run_process(hub, argv, name, **{"stdin": True, **options})  # type: ignore[arg-type]


def seen(hub: Recorder, text: str) -> None:
    wait_until(lambda: any(text in str(each) for each in hub.texts()), what=f"{text} in the output")


# --- what is written -----------------------------------------------------------------------


@both
def test_what_is_written_is_read_and_the_end_ends_the_input(hub: Recorder, pty: bool) -> None:
    with start(
        hub, python("for line in open(0): print('got', line, end='', flush=True)"), pty=pty
    ) as process:
        process.write("one\n")
        seen(hub, "got one")
        process.write("zwei ü\n".encode())
        process.close_stdin()
        assert process.wait(TIMEOUT) == 0
    assert [each for each in hub.lines() if each.startswith("got")] == ["got one", "got zwei ü"]
    # A terminal shows what is typed.
    assert ("one" in hub.lines()) is pty


@both
def test_a_line_without_its_end_is_read_at_the_end(hub: Recorder, pty: bool) -> None:
    process = start(hub, python("print('got', repr(open(0).read()))"), pty=pty)
    process.write("half")
    process.close_stdin()
    assert process.wait(TIMEOUT) == 0
    assert hub.lines()[-1].endswith("got 'half'")


@both
def test_nothing_is_written_behind_the_end(hub: Recorder, pty: bool) -> None:
    with start(hub, ["sleep", "60"], pty=pty) as process:
        process.close_stdin()
        process.close_stdin()
        with pytest.raises(InputClosed, match="the input of <Process p .*> is closed"):
            process.write("x")


def test_a_character_of_a_terminal_ends_the_input_of_one_read(hub: Recorder) -> None:
    code = "import os; print('first', os.read(0, 9)); print('second', os.read(0, 9))"
    process = start(hub, python(code), pty=True)
    process.write("\x04")
    seen(hub, "first b''")
    process.write("x\n")
    assert process.wait(TIMEOUT) == 0
    assert hub.lines()[-1] == "second b'x\\n'"


def test_the_end_of_file_character_is_that_of_the_terminal(hub: Recorder) -> None:
    code = """
        import termios, os
        settings = termios.tcgetattr(0)
        settings[6][termios.VEOF] = b"!"
        termios.tcsetattr(0, termios.TCSANOW, settings)
        print("set", flush=True)
        print("got", os.read(0, 9))
    """
    process = start(hub, python(code), pty=True)
    seen(hub, "set")
    process.close_stdin()
    assert process.wait(TIMEOUT) == 0
    assert hub.lines()[-1] == "got b''"


def test_a_ctrl_c_is_a_signal_in_a_terminal(hub: Recorder) -> None:
    process = start(hub, ["sh", "-c", "echo begun; exec sleep 60"], pty=True)
    seen(hub, "begun")
    process.write("\x03")
    assert process.wait(TIMEOUT) == -signal.SIGINT


def test_a_password_is_read_without_being_shown(hub: Recorder) -> None:
    code = "import getpass; print('got', getpass.getpass())"
    process = start(hub, [sys.executable, "-c", code], pty=True)
    seen(hub, "Password:")
    process.write("secret-1\n")
    assert process.wait(TIMEOUT) == 0
    assert hub.lines() == ["Password: ", "got secret-1"]


@both
def test_megabytes_reach_a_program_that_reads(hub: Recorder, pty: bool) -> None:
    lines, size = (3000, 1000) if pty else (10, 500_000)
    code = (
        "import sys, hashlib; d = sys.stdin.buffer.read(); print('sum', hashlib.md5(d).hexdigest())"
    )
    with start(
        hub,
        python(f"import os; os.system('stty -echo 2>/dev/null'); print('go', flush=True)\n{code}"),
        pty=pty,
    ) as process:
        seen(hub, "go")
        data = b"".join(b"%d %s\n" % (at, b"x" * size) for at in range(lines))
        process.write(data, timeout=60)
        process.close_stdin()
        assert process.wait(60) == 0
    import hashlib

    assert hub.lines()[-1] == f"sum {hashlib.md5(data).hexdigest()}"


def test_threads_write_one_after_the_other(hub: Recorder) -> None:
    process = start(hub, python("for line in open(0): print(line, end='')"))
    parts = [letter * 100_000 + "\n" for letter in "abcdefgh"]
    threads = [threading.Thread(target=process.write, args=(each, 60)) for each in parts]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    process.close_stdin()
    assert process.wait(60) == 0
    assert sorted(hub.lines()) == [each.rstrip() for each in parts]


def test_a_program_may_be_answered_in_on_line(hub: Recorder) -> None:
    def answer(text: str, stream: str) -> None:
        if text == "Name: \r":
            made.wait()
            box[0].write("Ada\n")

    made, box = threading.Event(), list[Process]()
    box.append(start(hub, ["sh", "-c", "printf 'Name: '; read x; echo hello $x"], on_line=answer))
    made.set()
    assert box[0].wait(TIMEOUT) == 0
    assert hub.lines() == ["Name: hello Ada"]


# --- a file as input -----------------------------------------------------------------------


@both
def test_an_open_file_becomes_the_input(hub: Recorder, tmp_path: Path, pty: bool) -> None:
    file = tmp_path / "input"
    file.write_text("first\nsecond\n")
    code = "import os; print(os.isatty(0), os.isatty(1)); print(open(0).read(), end='')"
    with open(file) as source:
        process = start(hub, python(code), pty=pty, stdin=source)
        assert process.wait(TIMEOUT) == 0
        assert not source.closed
    assert hub.lines() == [f"False {pty}", "first", "second"]
    with pytest.raises(InputClosed, match="stdin=True"):
        process.write("x")


def test_with_a_file_as_input_the_terminal_is_still_the_controlling_one(
    hub: Recorder, tmp_path: Path
) -> None:
    code = """
        import os
        print(os.ttyname(os.open("/dev/tty", os.O_RDWR)), os.tcgetpgrp(1) == os.getpgrp())
    """
    with open(os.devnull) as source:
        assert start(hub, python(code), pty=True, stdin=source).wait(TIMEOUT) == 0
    assert hub.lines() == ["/dev/tty True"]


# --- programs that do not read -------------------------------------------------------------


@both
def test_a_program_that_reads_nothing_is_not_waited_for_longer_than_asked(
    hub: Recorder, pty: bool
) -> None:
    with start(hub, ["sh", "-c", "stty -echo 2>&-; echo go; exec sleep 60"], pty=pty) as process:
        seen(hub, "go")
        data = b"line\n" * 200_000
        with pytest.raises(
            InputTimeout, match="<Process p .*> has not read its input within 0.3 s"
        ) as raised:
            process.write(data, timeout=0.3)
        assert 0 < raised.value.written < len(data)
        with pytest.raises(InputTimeout) as raised:
            process.write(data, timeout=0)
        assert raised.value.written == 0


@both
def test_a_kill_ends_the_write(hub: Recorder, pty: bool) -> None:
    process = start(hub, ["sh", "-c", "stty -echo 2>&-; echo go; exec sleep 60"], pty=pty)
    seen(hub, "go")
    raised: list[BaseException] = []

    def write() -> None:
        try:
            process.write(b"line\n" * 200_000, timeout=60)
        except InputClosed as error:
            raised.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: is_full(process), what="a full input")
    process.kill()
    writer.join(TIMEOUT)
    assert not writer.is_alive()
    assert re.match("<Process p .*> has (ended|closed its input): ", str(raised[0]))
    assert process.wait(TIMEOUT) == -9


def is_full(process: Process) -> bool:
    try:
        process.write("\n", timeout=0)
    except InputTimeout:  # or another thread is writing
        return True
    return False


def test_a_writer_waits_for_another_no_longer_than_asked(hub: Recorder) -> None:
    process = start(hub, ["sleep", "60"])
    writer = threading.Thread(target=ignored, args=(process.write, b"x" * 1_000_000, 60))
    writer.start()
    wait_until(lambda: is_full(process), what="a full input")
    for call in (lambda: process.write("x", 0.05), lambda: process.close_stdin(0.05)):
        with pytest.raises(InputTimeout, match="another thread has been writing to <Process p"):
            call()
    process.close()
    writer.join(TIMEOUT)
    assert not writer.is_alive()


def ignored(call: Any, *arguments: Any) -> None:
    try:
        call(*arguments)
    except InputClosed:
        pass


def test_a_program_that_closes_its_input_is_not_written_to(hub: Recorder) -> None:
    with start(hub, ["sh", "-c", "exec <&-; echo closed; exec sleep 60"]) as process:
        seen(hub, "closed")
        with pytest.raises(InputClosed, match="<Process p .*> has closed its input"):
            process.write("x")


def test_a_program_that_closes_its_input_ends_a_write_that_waits(hub: Recorder) -> None:
    with start(hub, ["sh", "-c", "read line; exec <&-; exec sleep 60"]) as process:
        with pytest.raises(InputClosed, match="<Process p .*> has closed its input"):
            process.write(b"x" * 200_000 + b"\n" + b"x" * 1_000_000, timeout=60)


def test_a_closed_input_ends_nothing_of_ours_that_is_killed_by_sigpipe(tmp_path: Path) -> None:
    code = f"""
        import signal, sys
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.recorder import Recorder
        from ws_hub.process import InputClosed, run_process
        with run_process(Recorder(), ["sh", "-c", "exec <&-; echo closed; exec sleep 60"],
                         stdin=True, on_line=lambda text, name: print(text, flush=True)) as process:
            try:
                while True:
                    process.write("x")
            except InputClosed as error:
                print("InputClosed")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["InputClosed", "closed"])


@both
def test_a_program_that_has_ended_is_not_written_to(hub: Recorder, pty: bool) -> None:
    process = start(hub, ["true"], pty=pty)
    process.wait(TIMEOUT)
    with pytest.raises(InputClosed):
        process.write("x")
    process.close_stdin()


def test_a_program_without_input_is_not_written_to(hub: Recorder) -> None:
    with start(hub, ["sleep", "60"], stdin=False) as process:
        with pytest.raises(InputClosed, match=r"stdin=True"):
            process.write("x")
        process.close_stdin()


@both
def test_the_end_of_the_hub_ends_a_program_that_waits_for_input(hub: Recorder, pty: bool) -> None:
    process = start(hub, ["cat"], pty=pty)
    hub.stop()
    assert process.wait(TIMEOUT) == -15


# --- descriptors ---------------------------------------------------------------------------


@both
def test_no_other_program_holds_the_input_open(hub: Recorder, pty: bool) -> None:
    first = start(hub, ["cat"], "first", pty=pty)
    others = [
        start(hub, ["sleep", "60"], "second", pty=pty),
        subprocess.Popen(["sleep", "60"], close_fds=False),
    ]
    try:
        fds = [os.readlink(f"/proc/{first.pid}/fd/0")]
        for other in others:
            held = {
                os.readlink(f"/proc/{other.pid}/fd/{fd}")
                for fd in os.listdir(f"/proc/{other.pid}/fd")
            }
            assert not held & {*fds, "/dev/ptmx", "/dev/pts/ptmx"}
        first.close_stdin()
        assert first.wait(TIMEOUT) == 0
    finally:
        for other in others:
            other.terminate()
            other.wait(TIMEOUT)


@both
def test_a_fork_of_ours_does_not_hold_the_input_open(hub: Recorder, pty: bool) -> None:
    process = start(hub, ["cat"], pty=pty)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            process.write("from the child")
        except InputClosed:
            os.read(reading, 1)
            os._exit(7)
        os._exit(1)
    process.close_stdin()
    assert process.wait(TIMEOUT) == 0
    os.write(writing, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    os.close(reading)
    os.close(writing)


@both
def test_a_program_that_cannot_start_leaves_nothing_open(hub: Recorder, pty: bool) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="cannot start"):
        start(hub, ["/no/such/program"], pty=pty)
    with open(os.devnull) as source, pytest.raises(OSError, match="cannot start"):
        start(hub, ["/no/such/program"], pty=pty, stdin=source)
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_pidfd_the_end_of_the_program_ends_a_write(
    hub: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    process = start(hub, ["sh", "-c", "sleep 60 & echo go; exit 3"])
    seen(hub, "go")
    with pytest.raises(InputClosed):
        process.write(b"x" * 1_000_000, timeout=60)
    assert process.wait(TIMEOUT) == 3


@pytest.mark.parametrize("wrong", [1, "file", None, object()])
def test_what_is_no_input_is_refused(hub: Recorder, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="^stdin must be True, False or an open file"):
        start(hub, ["true"], stdin=wrong)


def test_a_closed_file_is_refused(hub: Recorder, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        pass
    with pytest.raises(ConfigError, match="^stdin must be True, False or an open file"):
        start(hub, ["true"], stdin=file)


@pytest.mark.parametrize("wrong", [None, 3, ["x"]])
def test_what_is_no_text_is_not_written(hub: Recorder, wrong: Any) -> None:
    with start(hub, ["cat"]) as process, pytest.raises(TypeError, match="^data must be text"):
        process.write(wrong)


# --- the size of the terminal --------------------------------------------------------------

SIZES = """
    import os, signal
    def show(*_): os.write(1, b"size %d %d\\n" % os.get_terminal_size(1))
    signal.signal(signal.SIGWINCH, show)
    show()
    while True: signal.pause()
"""


def test_a_program_is_told_of_the_size_of_its_terminal(hub: Recorder) -> None:
    with start(hub, python(SIZES), pty=True) as process:
        seen(hub, "size 80 24")
        process.resize(100, 40)
        seen(hub, "size 100 40")
    process.resize(80, 24)  # it has ended


def test_lines_wrap_at_the_new_size(hub: Recorder) -> None:
    # Two rows of 30, of which the second is drawn anew by a program that goes up one row.
    code = """
        read x; printf 'a%.0s' $(seq 60); printf '\\r\\033[1Ab\\n\\n'
        read x; printf 'a%.0s' $(seq 60); printf '\\r\\033[1Ab\\n\\n'
    """
    with start(
        hub,
        ["bash", "-c", "stty -echo;" + textwrap.dedent(code)],
        pty=True,
        env={**os.environ, "COLUMNS": "30"},
    ) as process:
        process.write("\n")
        seen(hub, "b" + "a" * 59)
        process.resize(40, 24)
        process.write("\n")
        assert process.wait(TIMEOUT) == 0
    assert [each for each in hub.lines() if each] == ["b" + "a" * 59] * 2


@pytest.mark.parametrize("size", [(0, 24), (80, 0), (65536, 24), ("80", 24), (True, 24)])
def test_a_size_that_is_none_is_refused(hub: Recorder, size: Any) -> None:
    with start(hub, ["sleep", "60"], pty=True) as process:
        with pytest.raises(ConfigError, match="must be a whole number from 1 to 65535"):
            process.resize(*size)


def test_a_program_without_a_terminal_has_no_size(hub: Recorder) -> None:
    with start(hub, ["sleep", "60"]) as process, pytest.raises(ConfigError, match="pty=True"):
        process.resize(80, 24)
