"""Real programs, streamed to a hub that only remembers."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.programs import DEAF, is_alive, python
from tests.recorder import Recorder
from tests.support import TIMEOUT, wait_until
from ws_hub import threads
from ws_hub.errors import ConfigError, HubFull, HubNotRunning, InvalidName, WsHubError
from ws_hub.process.process import Process, ProcessStartError, begin, run_process
from ws_hub.process.spawn import Child, signal_name
from ws_hub.process.terms import Terms

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")


def run(hub: Recorder, argv: list[str], **options: Any) -> int:
    return run_process(hub, argv, "p", **options).wait(20)  # type: ignore[arg-type]


def begin_soon_killed(
    hub: Recorder, argv: list[str], kill_after: float, name: str = "p", **options: Any
) -> Process:
    """Start a program that gets SIGKILL sooner than others, when it is ended."""
    process = Process(hub, name, terms=Terms(grace=kill_after), **options)  # type: ignore[arg-type]
    return begin(process, lambda: Child(argv))


# --- what is said --------------------------------------------------------------------------


def test_running_comes_first_then_each_line_then_exited(hub: Recorder) -> None:
    assert run(hub, python("print('one'); print('two'); raise SystemExit(3)")) == 3
    assert [m.type for m in hub.messages] == [
        "process_status",
        "process_output",
        "process_output",
        "process_status",
    ]
    assert hub.lines() == ["one", "two"]
    assert list(hub.statuses()) == [
        {"status": "running"},
        {"status": "exited", "exitCode": 3},
    ]
    assert {m.channel for m in hub.messages} == {"process:p"}
    assert hub.claimed == []


def test_standard_error_is_streamed_as_well(hub: Recorder) -> None:
    seen: list[tuple[str, str]] = []
    run(hub, ["sh", "-c", "echo out; echo err >&2"], on_line=lambda *said: seen.append(said))
    assert sorted(seen) == [("err", "stderr"), ("out", "stdout")]
    assert sorted(hub.lines()) == ["err", "out"]


def test_the_order_of_each_stream_is_kept(hub: Recorder) -> None:
    run(
        hub,
        python("""
            import sys
            for number in range(5000):
                print("out", number)
                print("err", number, file=sys.stderr)
        """),
    )
    for name in ("out", "err"):
        numbers = [int(t.split()[1]) for t in hub.lines() if t.startswith(name)]
        assert numbers == list(range(5000))


def test_a_line_is_sent_while_the_program_runs(hub: Recorder) -> None:
    heard = threading.Event()
    hub.on_publish = lambda message: message.data == "ready" and heard.set()
    with run_process(hub, ["sh", "-c", "echo ready; sleep 60"]):  # type: ignore[arg-type]
        assert heard.wait(TIMEOUT)


def test_a_prompt_without_newline_is_shown_and_repeated(hub: Recorder) -> None:
    shown = threading.Event()
    hub.on_publish = lambda message: message.data == "Password: \r" and shown.set()
    code = "import signal;print('Password: ',end='',flush=True);signal.pause()"
    with run_process(hub, python(code), "p"):  # type: ignore[arg-type]
        assert shown.wait(TIMEOUT)
    assert hub.texts() == ["Password: \r", "Password: "]


def test_a_progress_line_is_sent_state_by_state(hub: Recorder) -> None:
    run(hub, ["printf", r"10%%\r20%%\r30%%\n"])
    assert hub.texts() == ["10%\r", "20%\r", "30%"]


def test_a_line_of_ten_megabytes_comes_whole(hub: Recorder) -> None:
    run(hub, python("print('x' * 10_000_000); print('end')"))
    assert hub.lines() == ["x" * 10_000_000, "end"]
    assert max(map(len, hub.texts())) < 10_000


def test_undecodable_bytes_and_control_characters_pass(hub: Recorder) -> None:
    run(hub, ["printf", r"a\377\000\007b"])
    assert hub.lines() == ["a\ufffd\x00\x07b"]


def test_a_killed_program_ends_with_minus_its_signal(hub: Recorder) -> None:
    assert run(hub, ["sh", "-c", "echo bye; kill -9 $$"]) == -9
    assert list(hub.statuses())[-1] == {"status": "exited", "exitCode": -9, "signal": "SIGKILL"}
    assert hub.lines() == ["bye"]


def test_every_signal_has_a_name() -> None:
    assert signal_name(15) == "SIGTERM"
    assert signal_name(250) == "SIG250"


def test_output_held_open_by_a_grandchild_is_not_waited_for(hub: Recorder) -> None:
    code = "import signal;print('mine',flush=True);signal.pause()"
    argv = ["sh", "-c", '"$0" -c "$1" & echo $!', sys.executable, code]
    assert run(hub, argv) == 0
    pid = next(int(line) for line in hub.lines() if line.isdecimal())
    assert is_alive(pid)  # as after a shell's "&": it was not asked to end
    os.kill(pid, signal.SIGKILL)
    assert list(hub.statuses())[-1]["status"] == "exited"


def test_a_program_that_closes_its_output_is_waited_for(hub: Recorder) -> None:
    assert run(hub, ["sh", "-c", "exec >&- 2>&-; sleep 0.2; exit 4"]) == 4


# --- a program that cannot start -----------------------------------------------------------


@pytest.mark.parametrize("pty", [False, True])
@pytest.mark.parametrize(
    ("argv", "cwd", "cause"),
    [
        (["no-such-program-here"], None, FileNotFoundError),
        (["./no-such-program-here"], None, FileNotFoundError),
        (["/"], None, PermissionError),
        (["/etc/passwd"], None, PermissionError),
        (["true"], "/no/such/directory", FileNotFoundError),
    ],
)
def test_a_program_that_cannot_start_is_raised_and_published_as_failed(
    hub: Recorder, argv: list[str], cwd: str | None, cause: type[OSError], pty: bool
) -> None:
    with pytest.raises(ProcessStartError) as caught:
        run(hub, argv, cwd=cwd, pty=pty)
    assert isinstance(caught.value, (WsHubError, OSError))
    assert isinstance(caught.value.__cause__, cause)
    (status,) = hub.statuses()
    assert status == {"status": "failed", "error": str(caught.value.__cause__)}
    assert run(hub, ["true"]) == 0  # the id is free again


@pytest.mark.parametrize("pty", [False, True])
def test_a_nul_in_an_argument_cannot_start(hub: Recorder, pty: bool) -> None:
    with pytest.raises(ProcessStartError, match="null"):
        run(hub, ["echo", "a\0b"], pty=pty)


def test_a_failed_start_is_raised_although_it_cannot_be_published(hub: Recorder) -> None:
    hub.full = 1
    with pytest.raises(ProcessStartError):
        run(hub, ["no-such-program-here"])


def test_a_platform_without_terminals_raises(
    hub: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "openpty")
    with pytest.raises(ProcessStartError, match="pseudo-terminals"):
        run(hub, ["true"], pty=True)


@pytest.mark.parametrize("argv", ["ls -l", b"ls", [], ["ls", 1], [None]])
def test_an_argv_that_is_no_sequence_of_strings_is_refused(hub: Recorder, argv: Any) -> None:
    with pytest.raises(ConfigError, match="argv"):
        run_process(hub, argv)  # type: ignore[arg-type]
    assert hub.messages == []


def test_a_bad_id_is_refused_before_anything_starts(hub: Recorder) -> None:
    with pytest.raises(InvalidName):
        run_process(hub, ["true"], "a/b")  # type: ignore[arg-type]
    assert hub.messages == []


def test_a_process_id_in_use_is_refused_until_its_end(hub: Recorder) -> None:
    with run_process(hub, ["sleep", "60"], "p"):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="'p' is running"):
            run(hub, ["true"])
        other = Recorder()
        assert run(other, ["true"]) == 0
    assert run(hub, ["true"]) == 0


@pytest.mark.parametrize(
    ("program", "start"), [("env", "env-"), ("a b", "a-b-"), ("...", "process-")]
)
def test_an_id_is_made_from_the_programs_name(
    hub: Recorder, tmp_path: Path, program: str, start: str
) -> None:
    script = tmp_path / program
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    processes = [run_process(hub, [str(script)]) for _ in range(2)]  # type: ignore[arg-type]
    first, second = (process.process_id for process in processes)
    assert [process.wait(TIMEOUT) for process in processes] == [0, 0]
    assert first != second
    assert first.startswith(start)
    assert len(first) == len(start) + 8


def test_a_stopped_hub_starts_nothing(hub: Recorder, tmp_path: Path) -> None:
    hub.running = False
    with pytest.raises(HubNotRunning):
        run(hub, ["touch", str(tmp_path / "x")])
    assert list(tmp_path.iterdir()) == []


def test_a_child_whose_start_cannot_be_published_is_ended(hub: Recorder) -> None:
    hub.full = 1
    with pytest.raises(HubFull):
        run(hub, ["sleep", "60"])
    assert list(hub.statuses()) == [{"status": "failed", "error": "full"}]


def test_a_child_without_a_thread_is_ended(hub: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "start", no_thread)
    with pytest.raises(RuntimeError, match="new thread"):
        run(hub, ["sleep", "60"])
    assert [s["status"] for s in hub.statuses()] == ["failed"]
    hub.stop()  # what was registered finds nothing to do


def test_a_child_without_a_selector_is_ended(
    hub: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*args: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(selectors, "DefaultSelector", no_room)
    with pytest.raises(OSError, match="Too many"):
        run(hub, ["sleep", "60"])
    assert [s["status"] for s in hub.statuses()] == ["failed"]


# --- a terminal ----------------------------------------------------------------------------


def test_with_pty_the_program_has_a_terminal(hub: Recorder) -> None:
    code = "import os;print([os.isatty(fd) for fd in (0,1,2)], os.environ['TERM'])"
    run(hub, python(code), pty=True, env={"PATH": os.environ["PATH"]})
    assert hub.lines() == ["[True, True, True] xterm-256color"]


def test_without_pty_the_program_has_no_terminal_and_no_input(hub: Recorder) -> None:
    code = "import os,sys;print([os.isatty(fd) for fd in (0,1,2)], repr(sys.stdin.read()))"
    run(hub, python(code))
    assert hub.lines() == ["[False, False, False] ''"]


def test_the_terminal_is_the_childs_controlling_one(hub: Recorder) -> None:
    assert run(hub, ["sh", "-c", "echo to the terminal > /dev/tty"], pty=True) == 0
    assert hub.lines() == ["to the terminal"]


@pytest.mark.parametrize(
    ("columns", "rows", "size"),
    [
        ("132", "50", "50 132"),
        ("", "x", "24 80"),
        ("0", "-3", "24 80"),
        ("99999", "70000", "24 80"),
    ],
)
def test_a_terminal_has_the_size_that_the_environment_asks_for(
    hub: Recorder, columns: str, rows: str, size: str
) -> None:
    env = {**os.environ, "COLUMNS": columns, "LINES": rows}
    code = "import os;s=os.get_terminal_size();print(s.lines,s.columns)"
    run(hub, python(code), pty=True, env=env)
    assert hub.lines() == [size]


def test_a_program_in_a_terminal_keeps_its_colours_and_newlines(hub: Recorder) -> None:
    argv = ["sh", "-c", r"test -t 1 && printf '\033[31mred\033[0m\n\nplain\n'"]
    run(hub, argv, pty=True)
    assert hub.lines() == ["\x1b[31mred\x1b[0m", "", "plain"]


def test_many_lines_in_a_terminal_come_exactly(hub: Recorder) -> None:
    run(hub, python("for n in range(20000): print('line', n)"), pty=True)
    assert hub.lines() == [f"line {n}" for n in range(20000)]


def test_in_a_terminal_arguments_directory_and_exit_code_are_the_programs_own(
    hub: Recorder, tmp_path: Path
) -> None:
    script = tmp_path / "a script"
    script.write_text('#!/bin/sh\npwd\nfor a in "$@"; do echo "<$a>"; done\nexit 7\n')
    script.chmod(0o755)
    odd = ["$HOME", "a b", "", "*", "-n", '"']
    assert run(hub, ["./a script", *odd], pty=True, cwd=tmp_path) == 7
    assert hub.lines() == [str(tmp_path), *(f"<{each}>" for each in odd)]


def test_the_end_of_a_terminal_ends_the_stream(hub: Recorder) -> None:
    argv = ["sh", "-c", "trap '' HUP; sleep 60 & echo $!"]
    assert run(hub, argv, pty=True) == 0
    os.kill(int(hub.lines()[0]), signal.SIGKILL)


# --- the child's surroundings --------------------------------------------------------------


@pytest.mark.parametrize("pty", [False, True])
def test_a_child_inherits_no_descriptor_of_ours(hub: Recorder, pty: bool) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        run(hub, ["sh", "-c", "echo $$; ls -l /proc/self/fd/"], pty=pty)
    finally:
        os.close(read)
        os.close(write)
    assert hub.lines()
    assert not any(f" {write} ->" in line and "pipe:" in line for line in hub.lines())


def test_directory_and_environment_are_the_ones_given(hub: Recorder, tmp_path: Path) -> None:
    run(hub, ["sh", "-c", "pwd; echo $FLAVOUR"], cwd=tmp_path, env={"FLAVOUR": "plum"})
    assert hub.lines() == [str(tmp_path), "plum"]


# --- the handle ----------------------------------------------------------------------------


def test_wait_is_bounded_and_repeatable(hub: Recorder) -> None:
    with run_process(hub, ["sleep", "60"], "p") as process:  # type: ignore[arg-type]
        assert process.returncode is None
        assert is_alive(process.pid)
        with pytest.raises(TimeoutError, match="p pid="):
            process.wait(0.01)
        process.terminate()
        assert process.wait(TIMEOUT) == -15
        assert process.wait() == -15
        assert process.returncode == -15
        process.kill()  # no harm once it has ended
    assert "returncode=-15" in repr(process)


def test_a_signal_reaches_the_whole_group(hub: Recorder) -> None:
    started = threading.Event()
    hub.on_publish = lambda message: str(message.data).isdecimal() and started.set()
    argv = ["sh", "-c", "sleep 60 & echo $!; wait"]
    process = run_process(hub, argv, "p")  # type: ignore[arg-type]
    assert started.wait(TIMEOUT)
    process.kill()
    assert process.wait(TIMEOUT) == -9
    grandchild = int(hub.lines()[0])
    wait_until(lambda: not is_alive(grandchild))


def test_leaving_with_ends_a_child_that_ignores_sigterm(
    hub: Recorder,
) -> None:
    deaf = threading.Event()
    hub.on_publish = lambda message: message.data == "deaf" and deaf.set()
    with begin_soon_killed(hub, python(DEAF), 0.2) as process:
        assert deaf.wait(TIMEOUT)
    assert process.wait(TIMEOUT) == -9


def test_close_ends_what_the_child_left_in_its_group(hub: Recorder) -> None:
    ready = threading.Event()
    hub.on_publish = lambda message: str(message.data).isdecimal() and ready.set()
    argv = ["sh", "-c", "(trap '' TERM; while :; do sleep 60; done) & echo $!; exec sleep 60"]
    process = run_process(hub, argv, "p")  # type: ignore[arg-type]
    assert ready.wait(TIMEOUT)
    process.close()
    process.close()
    assert process.returncode == -15
    grandchild = int(hub.lines()[0])
    wait_until(lambda: not is_alive(grandchild))


def test_its_thread_is_named_after_it(hub: Recorder) -> None:
    names: list[str] = []
    run(hub, ["echo"], on_line=lambda text, name: names.append(threading.current_thread().name))
    assert names == ["ws-hub:process:p"]


def test_on_line_that_raises_is_logged_once_and_the_stream_goes_on(
    hub: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(text: str, name: str) -> None:
        raise BrokenPipeError("terminal gone")

    run(hub, ["printf", r"a\nb\n"], on_line=broken)
    assert hub.lines() == ["a", "b"]
    assert [r.name for r in caplog.records] == ["ws_hub.process.process"]
    assert "terminal gone" in caplog.text


def test_on_line_may_end_the_process_but_not_wait_for_it(
    hub: Recorder,
) -> None:
    refused: list[BaseException] = []
    box: list[Process] = []
    known = threading.Event()

    def end(text: str, name: str) -> None:
        assert known.wait(TIMEOUT)
        try:
            box[0].wait()
        except RuntimeError as error:
            refused.append(error)
        box[0].close()

    box.append(begin_soon_killed(hub, python(DEAF), 0.2, on_line=end))
    known.set()
    assert box[0].wait(TIMEOUT) == -9
    assert refused  # once a line: its interpreter may print one of its own


# --- the hub -------------------------------------------------------------------------------


def test_a_full_hub_is_waited_for_and_no_line_is_lost(hub: Recorder) -> None:
    def fill(message: Any) -> None:
        if message.data in ("3", "5") and not hub.full and message.data not in seen:
            seen.append(message.data)
            hub.full = 3

    seen: list[str] = []
    hub.on_publish = fill
    run(hub, ["seq", "9"])
    assert hub.lines() == [str(number) for number in range(1, 10)]
    assert seen == ["3", "5"]


def test_exited_waits_for_a_full_hub_too(hub: Recorder) -> None:
    def fill(message: Any) -> None:
        if isinstance(message.data, dict) and message.data["status"] == "exited" and not seen:
            seen.append("exited")
            hub.full = 3

    seen: list[str] = []
    hub.on_publish = fill
    run(hub, ["true"])
    assert list(hub.statuses())[-1]["status"] == "exited"


def test_a_hub_that_stops_just_before_exited_holds_nothing_up(hub: Recorder) -> None:
    def stop(message: Any) -> None:
        if isinstance(message.data, dict) and message.data["status"] == "exited":
            hub.running = False

    hub.on_publish = stop
    assert run(hub, ["echo", "x"]) == 0
    assert list(hub.statuses()) == [{"status": "running"}]


@pytest.mark.slow
def test_a_child_is_slowed_by_a_hub_that_is_slow(hub: Recorder) -> None:
    gate, stuck = threading.Event(), threading.Event()
    lines = [f"{number:0100}" for number in range(20_000)]  # much more than a pipe holds

    def hold(message: Any) -> None:
        if message.data == lines[0]:
            stuck.set()
            assert gate.wait(TIMEOUT)

    hub.on_publish = hold
    code = """
        import os
        os.set_blocking(2, False)
        for number in range(20_000):
            print(f"{number:0100}")
    """
    process = run_process(hub, python(code), "p")  # type: ignore[arg-type]
    assert stuck.wait(TIMEOUT)
    with pytest.raises(TimeoutError):
        process.wait(0.2)
    assert is_alive(process.pid)
    gate.set()
    assert process.wait(3 * TIMEOUT) == 0
    assert hub.lines() == lines


def test_a_hub_that_stops_ends_its_children_and_publishes_exited(hub: Recorder) -> None:
    processes = [run_process(hub, ["sleep", "60"]) for _ in range(3)]  # type: ignore[arg-type]
    hub.stop()
    assert [process.returncode for process in processes] == [-15, -15, -15]
    statuses = [status["status"] for status in hub.statuses()]
    assert statuses == ["running"] * 3 + ["exited"] * 3


def test_stubborn_children_end_together_when_the_hub_stops(
    hub: Recorder,
) -> None:
    code = """
        import signal, time
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        print("deaf", flush=True)
        signal.sigwait([signal.SIGTERM])
        print("asked", flush=True)
        time.sleep(60)
    """
    deaf = threading.Semaphore(0)
    asked = threading.Barrier(4, lambda: [process.kill() for process in processes])

    def publish(message: Any) -> None:
        if message.data == "deaf":
            deaf.release()
        elif message.data == "asked":
            asked.wait(TIMEOUT)  # on the thread of each

    hub.on_publish = publish
    grace = 4 * TIMEOUT
    processes = [begin_soon_killed(hub, python(code), grace, name) for name in ("a", "b", "c", "d")]
    for _ in processes:
        assert deaf.acquire(timeout=TIMEOUT)
    hub.stop()
    assert [process.returncode for process in processes] == [-9] * 4
    assert not asked.broken


def test_a_child_whose_hub_has_stopped_is_ended_and_drained(
    hub: Recorder,
) -> None:
    process = begin_soon_killed(hub, python(DEAF.replace("'deaf'", "'x' * 100000")), 0.2)
    hub.running = False
    assert process.wait(TIMEOUT) in (-9, -15)  # -15: it had not yet learned to ignore it


def test_a_hub_that_stops_during_the_start_ends_the_child(hub: Recorder) -> None:
    class Stopping(Recorder):
        @property
        def running(self) -> bool:  # type: ignore[override] # the race, made certain
            return not self.messages  # until the status `running` is published

        @running.setter
        def running(self, value: bool) -> None:
            pass

    process = run_process(Stopping(), ["sleep", "60"], "p")  # type: ignore[arg-type]
    assert process.wait(TIMEOUT) == -15


def test_a_hub_that_takes_the_rest_slowly_does_not_hold_up_close(
    hub: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    gate, stuck = threading.Event(), threading.Event()

    def hold(message: Any) -> None:
        if message.data == "x":
            stuck.set()
            gate.wait(TIMEOUT)

    hub.on_publish = hold
    process = begin_soon_killed(hub, ["sh", "-c", "echo x; sleep 60"], 0.1)
    assert stuck.wait(TIMEOUT)
    process.close()
    assert "slowly" in caplog.text
    gate.set()
    assert process.wait(TIMEOUT) < 0


def test_a_bug_in_the_stream_ends_the_child_and_publishes_exited(
    hub: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: Any) -> None:
        if message.data == "x":
            raise ZeroDivisionError("a bug")

    hub.on_publish = fail
    assert run(hub, ["sh", "-c", "echo x; sleep 60"]) == -9
    assert list(hub.statuses())[-1]["exitCode"] == -9
    assert "a bug" in caplog.text


def test_a_hub_that_stops_during_a_start_ends_the_other_children(hub: Recorder) -> None:
    """Of a program that is being started there is a process id, and nothing to end yet."""

    def spawn() -> Child:
        hub.stop()
        return Child(["sleep", "60"])

    other = run_process(hub, ["sleep", "60"])  # type: ignore[arg-type]
    with pytest.raises(HubNotRunning):
        begin(Process(hub, "p"), spawn)  # type: ignore[arg-type]
    assert other.wait(TIMEOUT) == -15


def test_after_a_fork_nothing_is_streamed_in_the_child(hub: Recorder) -> None:
    with run_process(hub, ["sleep", "60"], "p") as process:  # type: ignore[arg-type]
        pid = os.fork()
        if pid == 0:
            try:
                code = run(hub, ["sh", "-c", "exit 5"])  # the process id is free there
                hub.stop()  # and nothing is ended
                os._exit(0 if code == 5 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert process.running
        assert is_alive(process.pid)


# --- other systems -------------------------------------------------------------------------


def test_without_pidfd_an_exit_is_found_by_looking(
    hub: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert run(hub, ["sh", "-c", "exec >&- 2>&-; exit 5"]) == 5


def test_without_waitid_an_exit_is_found_by_reaping(
    hub: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "waitid", raising=False)
    assert run(hub, ["sh", "-c", "echo x; exit 5"]) == 5
    with run_process(hub, ["sleep", "60"], "p") as process:  # type: ignore[arg-type]
        pass
    assert process.returncode == -15


def test_a_child_reaped_by_other_code_has_exited() -> None:
    child = Child(["true"])
    os.waitpid(child.pid, 0)
    assert child.exited()
    child.signal(signal.SIGTERM)
    assert child.reap() is None
    child.signal(signal.SIGTERM)
    child.close()


def test_a_signal_after_reaping_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(["true"])
    wait_until(child.exited)
    child.reap()
    monkeypatch.setattr(os, "killpg", lambda *args: pytest.fail("that pid may be another's"))
    child.signal(signal.SIGKILL)
    child.reap()
    child.close()
    child.close()


def test_a_program_ends_with_the_interpreter(tmp_path: Path) -> None:
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from ws_hub.hub import Hub
        from ws_hub.process import run_process
        print(run_process(Hub().start(), ["sleep", "60"], "p").pid, flush=True)
    """
    argv = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    (line,) = done.stderr.splitlines()  # nobody could see what the program said
    assert "messages, and had no client to send them to" in line
    assert not is_alive(int(done.stdout))
