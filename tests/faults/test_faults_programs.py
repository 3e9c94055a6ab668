"""Programs, logs and prints: what leaves one running, or shows one that failed as green."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import select
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.interventions import before_each_signal, reused, without_proc, without_spawn_action
from tests.programs import is_alive
from tests.recorder import Recorder
from tests.support import wait_until
from ws_hub import cli
from ws_hub.errors import ConfigError
from ws_hub.hub.hub import Hub as RealHub
from ws_hub.process import launch, spawn
from ws_hub.process.process import ExitCodeUnknown, Process, ProcessStartError, run_process
from ws_hub.process.session import Session
from ws_hub.process.spawn import Child
from ws_hub.server.server import serve

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux")

ROOT = Path(__file__).resolve().parents[2]
BOUND = 40.0  # a program that starts on a busy machine
UNKNOWN = "its exit code is not known: SIGCHLD is ignored, or something waits for any child"


class Hub(Recorder):
    """A recorder that can be waited at for the numbers that a program prints."""

    def numbers(self, count: int = 1) -> list[int]:
        return wait_until(lambda: self._numbers(count), BOUND)

    def _numbers(self, count: int) -> list[int] | None:
        found = [int(text) for text in self.texts() if text.strip("\r").isdecimal()]
        return found if len(found) >= count else None

    def last(self) -> Any:
        return list(self.statuses())[-1]


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.stop()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def start(hub: Recorder, argv: list[str], **options: Any) -> Process:
    return run_process(hub, argv, "p", **options)  # type: ignore[arg-type]


def run(hub: Recorder, argv: list[str], **options: Any) -> int:
    return start(hub, argv, **options).wait(BOUND)


# --- 83: what `close` leaves running -------------------------------------------------------

OTHER_GROUPS = [
    ["bash", "-c", "set -m; sleep 1000 & echo $!; wait"],
    ["bash", "-c", "set -m; (trap '' TERM; while :; do sleep 1000; done) & echo $!; wait"],
    ["bash", "-i", "-c", "sleep 1000 & echo $!; wait"],
    ["sh", "-c", "timeout 3000 sh -c 'echo $$; exec sleep 1000'; :"],
]


@pytest.mark.parametrize("end", ["close", "stop"])
@pytest.mark.parametrize("argv", OTHER_GROUPS)
def test_fault_083_close_ends_other_process_groups_of_the_session(
    hub: Hub, argv: list[str], end: str
) -> None:
    process = start(hub, argv, pty="-i" in argv)  # it needs a terminal for its groups
    (child,) = hub.numbers()
    assert os.getpgid(child) != process.pid
    process.close() if end == "close" else hub.stop()
    assert not is_alive(child)
    assert not process.running


def test_fault_083_close_ends_a_descendant_in_another_session(hub: Hub) -> None:
    code = """
        import subprocess, time
        print(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid, flush=True)
        time.sleep(1000)
    """
    process = start(hub, python(code))
    (child,) = hub.numbers()
    assert os.getsid(child) != process.pid
    process.close()
    assert not is_alive(child)


def test_fault_083_a_descendant_is_ended_after_its_parent(hub: Hub) -> None:
    """It ignores SIGTERM, its parent does not, so that at SIGKILL it has another parent."""
    code = """
        import subprocess, time
        argv = ["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1000; done"]
        subprocess.Popen(argv, start_new_session=True)
        time.sleep(1000)
    """
    process = start(hub, python(code))
    (child,) = hub.numbers()
    process.close()
    assert process.returncode == -signal.SIGTERM
    assert not is_alive(child)


@pytest.mark.parametrize("argv", OTHER_GROUPS[:2])
def test_fault_083_a_program_that_is_asked_to_end_leaves_nothing(hub: Hub, argv: list[str]) -> None:
    process = start(hub, argv)
    (child,) = hub.numbers()
    process.ask_to_end(signal.SIGINT)  # which ends the shell alone
    assert process.wait(BOUND) == -signal.SIGINT
    assert not is_alive(child)


def test_fault_083_what_is_left_of_a_program_that_ended_by_itself_runs_on(hub: Hub) -> None:
    assert run(hub, ["bash", "-c", "set -m; sleep 1000 >&- 2>&- & echo $!"]) == 0
    (child,) = hub.numbers()
    assert is_alive(child)
    os.kill(child, signal.SIGKILL)


@contextlib.contextmanager
def leader() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a program that leads a session, and end it."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as program:
        try:
            yield program
        finally:
            program.kill()


def test_fault_083_no_signal_goes_to_a_number_that_is_anothers_by_now() -> None:
    """It was found as one of ours, and was reused when it was to be signalled."""
    with leader() as stranger, contextlib.ExitStack() as stack:
        ours = Session(stranger.pid)
        with before_each_signal(lambda: stack.enter_context(reused(stranger.pid))):
            assert ours.signal(signal.SIGTERM) == {stranger.pid}
        stack.close()
        assert ours.signal(signal.SIGKILL) == {stranger.pid}
        assert stranger.wait(BOUND) == -signal.SIGKILL  # and not of the one before


def test_fault_083_a_session_whose_number_is_anothers_has_no_members() -> None:
    with leader() as stranger:
        ours = Session(stranger.pid)
        assert ours.signal(0) == {stranger.pid}
        with reused(stranger.pid):
            assert ours.signal(0) == set()


@pytest.mark.parametrize("without", ["proc", "pidfd"])
def test_fault_083_other_systems_find_the_session_too(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    if without == "pidfd":
        monkeypatch.delattr(os, "pidfd_open")
    with without_proc() if without == "proc" else contextlib.nullcontext():
        process = start(hub, OTHER_GROUPS[1])
        (child,) = hub.numbers()
        process.close()
        wait_until(lambda: not is_alive(child))


def test_fault_083_a_system_that_lists_no_processes_has_no_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/no/such/directory")
    with without_proc():
        assert Session(os.getsid(0)).signal(0) == set()


# --- 84: an exit code that somebody else has taken -----------------------------------------


@contextlib.contextmanager
def ignored(*numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("pty", [False, True])
def test_fault_084_with_sigchld_ignored_an_exit_code_is_unknown(hub: Hub, pty: bool) -> None:
    with ignored(signal.SIGCHLD):
        process = start(hub, ["sh", "-c", "exit 3"], pty=pty)
        with pytest.raises(ExitCodeUnknown, match="exit code is not known"):
            process.wait(BOUND)
    assert hub.last() == {"status": "exited", "exitCode": None, "error": UNKNOWN}
    assert process.returncode is None
    assert not process.running


@pytest.mark.parametrize("pidfd", [True, False])
def test_fault_084_an_exit_code_that_another_thread_has_taken_is_unknown(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, pidfd: bool
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    reap = launch.Launched.reap

    def taken(self: launch.Launched) -> int | None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)  # what another thread's wait for any child does
        return reap(self)

    monkeypatch.setattr(launch.Launched, "reap", taken)
    process = start(hub, ["sh", "-c", "exit 3"])
    with pytest.raises(ExitCodeUnknown):
        process.wait(BOUND)
    assert hub.last()["exitCode"] is None


def test_fault_084_child_that_is_reaped_elsewhere_gets_no_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = Child(["true"])
    os.waitpid(child.pid, 0)
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("that pid may be another's"))
    child.signal(signal.SIGTERM)
    assert child.exited()
    assert child.reap() is None
    child.close()


def test_fault_084_programs_do_not_inherit_that_sigchld_is_ignored(hub: Hub) -> None:
    """Or the program itself would take the failures of what it starts for successes."""
    code = "import subprocess;print(subprocess.run(['false']).returncode)"
    with ignored(signal.SIGCHLD):
        process = start(hub, python(code))
        with pytest.raises(ExitCodeUnknown):
            process.wait(BOUND)
    assert hub.lines() == ["1"]


# --- 85: signals as they were in the thread that started it --------------------------------


def on_thread(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(BOUND)
    return found[0]


@pytest.mark.parametrize("pty", [False, True])
def test_fault_085_a_blocked_sigterm_is_not_inherited(hub: Hub, pty: bool) -> None:
    def begin() -> Process:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        return start(hub, ["sleep", "1000"], pty=pty)

    process = on_thread(begin)
    process.terminate()
    assert process.wait(BOUND) == -signal.SIGTERM


@pytest.mark.parametrize("pty", [False, True])
def test_fault_085_programs_begin_with_default_handlers(hub: Hub, pty: bool) -> None:
    argv = ["sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status"]
    with ignored(signal.SIGTERM, signal.SIGUSR1, signal.SIGTTOU):
        assert run(hub, argv, pty=pty) == 0
    masks = dict(line.split() for line in hub.lines())
    assert int(masks["SigBlk:"], 16) == 0
    assert int(masks["SigIgn:"], 16) & 0x7FFFFFFF == 0


def test_fault_085_what_nohup_ignores_stays_ignored(hub: Hub) -> None:
    argv = ["sh", "-c", "kill -HUP $$; kill -INT $$; echo alive"]
    with ignored(signal.SIGHUP, signal.SIGINT):
        assert run(hub, argv) == 0
    assert hub.lines() == ["alive"]


# --- 90: a program that asks for input -----------------------------------------------------


@pytest.mark.parametrize("pty", [False, True])
@pytest.mark.parametrize(
    "argv",
    [
        python("import getpass; getpass.getpass('Password: ')"),
        python("input('Name: ')"),
        ["sh", "-c", "read a || read b || exec cat"],
        ["bash", "-c", "read -s -p 'Password: ' a || read b < /dev/tty"],
    ],
)
def test_fault_090_input_is_at_its_end(hub: Hub, argv: list[str], pty: bool) -> None:
    start(hub, argv, pty=pty).wait(BOUND)
    if "input" in argv[-1] or "getpass" in argv[-1]:
        assert any(line.startswith("EOFError") for line in hub.lines())


def test_fault_090_without_a_terminal_of_its_own_it_has_none(hub: Hub) -> None:
    assert run(hub, ["sh", "-c", ": < /dev/tty"]) != 0
    assert "/dev/tty" in hub.lines()[-1]


# --- 92: a program that cannot be executed -------------------------------------------------


@pytest.mark.parametrize("pty", [False, True])
def test_fault_092_a_bad_interpreter_is_a_failed_start(hub: Hub, tmp_path: Path, pty: bool) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(ProcessStartError):
        start(hub, [str(script)], pty=pty)
    assert [status["status"] for status in hub.statuses()] == ["failed"]


@pytest.mark.parametrize("pty", [False, True])
def test_fault_092_too_long_an_argument_is_a_failed_start(hub: Hub, pty: bool) -> None:
    with pytest.raises(ProcessStartError, match="too long"):
        start(hub, ["true", "x" * 10_000_000], pty=pty)
    assert [status["status"] for status in hub.statuses()] == ["failed"]


@pytest.mark.parametrize("pty", [False, True])
def test_fault_092_a_script_without_an_interpreter_is_the_shells(
    hub: Hub, tmp_path: Path, pty: bool
) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$1"; exit 3\n')
    script.chmod(0o755)
    assert run(hub, ["./script", "a b"], pty=pty, cwd=tmp_path) == 3
    assert hub.lines() == ["a b"]


@pytest.mark.parametrize("function", ["addchdir", "addclosefrom"])
def test_fault_092_an_older_c_library_starts_programs_as_well(
    hub: Hub, tmp_path: Path, function: str
) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    code = f"import os;os.write({write},b'x')"
    argv = ["sh", "-c", f'pwd; exec "$0" -c "{code}"', sys.executable]
    try:
        with without_spawn_action(function):
            assert run(hub, argv, cwd=tmp_path)
    finally:
        os.close(read)
        os.close(write)
    assert hub.lines()[0] == str(tmp_path)
    assert "Bad file descriptor" in hub.lines()[-1]


# --- 130: what ends a program that should go on, and what leaves one behind ----------------


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt(), GeneratorExit()])
def test_fault_130_whatever_on_line_raises_the_program_goes_on(
    hub: Hub, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(text: str, name: str) -> None:
        raise error

    assert run(hub, ["sh", "-c", "echo a; echo b; exit 4"], on_line=fail) == 4
    assert hub.lines() == ["a", "b"]
    assert len([r for r in caplog.records if "on_line" in r.getMessage()]) == 1


STARTS = """
    import os, signal, sys
    sys.path.insert(0, {root!r})
    from ws_hub.hub import Hub
    hub = Hub().start()
    process = hub.run_process({argv!r}, "p", pty={pty})
    print(process.pid, flush=True)
    {end}
"""
ENDS = [
    "os.kill(os.getpid(), signal.SIGKILL)",
    "os._exit(0)",
    "os.execv('/bin/true', ['true'])",
]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("pty", [False, True])
def test_fault_130_a_program_does_not_outlive_its_process(pty: bool, end: str) -> None:
    argv = ["bash", "-c", "set -m; trap '' HUP; (trap '' HUP TERM; exec sleep 1000) & wait"]
    code = STARTS.format(root=str(ROOT), argv=argv, pty=pty, end=end)
    done = subprocess.run(python(code), capture_output=True, text=True, timeout=BOUND)
    pid = int(done.stdout)
    wait_until(lambda: not any(each == pid for each in _sessions()), BOUND)


def _sessions() -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(ValueError, ProcessLookupError):
            if is_alive(int(name)):
                found.append(os.getsid(int(name)))
    return found


def test_fault_130_a_forked_child_does_not_keep_the_guard_waiting() -> None:
    """What was forked lives on, and holds every descriptor that it does not let go of."""
    end = """if os.fork() == 0:
        os.close(1); os.close(2)
        signal.pause()
    os._exit(0)"""
    code = STARTS.format(root=str(ROOT), argv=["sleep", "1000"], pty=False, end=end)
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            wait_until(lambda: not is_alive(pid), BOUND)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def test_fault_130_leaving_with_in_a_forked_child_leaves_the_program_alone(hub: Hub) -> None:
    with start(hub, ["sleep", "1000"]) as process:
        pid = os.fork()
        if pid == 0:
            try:
                process.close()
                process.kill()
                with contextlib.suppress(ExitCodeUnknown):
                    process.wait(0)
                    os._exit(1)
                os._exit(0)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert process.running
        assert is_alive(process.pid)
    assert process.returncode == -signal.SIGTERM


def test_fault_130_a_system_without_a_shell_has_no_guard(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_shell(path: str, *rest: Any) -> launch.Launched:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr("ws_hub.process.guard.launch", no_shell)
    assert run(hub, ["sh", "-c", "exit 3"]) == 3


def test_fault_130_a_program_that_cannot_be_guarded_is_ended(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(path: str, *rest: Any) -> launch.Launched:
        raise BlockingIOError(11, "Resource temporarily unavailable", path)

    monkeypatch.setattr("ws_hub.process.guard.launch", no_more)
    with pytest.raises(ProcessStartError, match="temporarily unavailable"):
        start(hub, ["sleep", "1000"])
    assert [status["status"] for status in hub.statuses()] == ["failed"]


# --- the command line: 84, 86, 90, 130 -----------------------------------------------------


def shell(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; $WS is the command line."""
    environment = {**os.environ, "WS": f"{sys.executable} -m ws_hub"}
    return subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
        **options,
    )


CLOSED = [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("pty", ["--pty", "--no-pty"])
def test_fault_086_a_program_runs_with_descriptors_closed(
    closed: str, pty: str, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    script = f"echo out; echo err >&2; readlink /proc/$PPID/fd/[012] > {seen}; exit 3"
    done = shell(f"$WS run {pty} --port 0 -- sh -c {script!r} {closed}")
    assert done.returncode == 3
    assert "watch at" not in done.stdout
    if ">&-" not in closed.split():
        assert done.stdout.splitlines()[0] == "out"
    if "2>&-" not in closed and pty == "--no-pty":
        assert "err" in done.stderr.splitlines()
    descriptors = seen.read_text().split()
    assert len(descriptors) == 3
    assert not any("socket" in each for each in descriptors)


@pytest.mark.parametrize("command", ["serve --port 0", "tail ws://127.0.0.1:9/ws news"])
def test_fault_086_no_socket_takes_the_number_of_a_closed_descriptor(command: str) -> None:
    script = f"exec {sys.executable} -m ws_hub {command} <&- >&- 2>&-"
    with subprocess.Popen(["bash", "-c", script], cwd=ROOT) as process:
        try:
            wait_until(lambda: _handles(process.pid, signal.SIGTERM), BOUND)
            found = {os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in range(3)}
            process.terminate()
            assert process.wait(BOUND) == 128 + signal.SIGTERM
        finally:
            process.kill()
    assert found == {os.devnull}


def _handles(pid: int, number: int) -> bool:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)


def test_fault_084_run_knows_the_exit_code_though_it_inherits_an_ignored_sigchld() -> None:
    code = """
        import os, signal, sys
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.execv(sys.executable, [sys.executable, "-m", "ws_hub", *sys.argv[1:]])
    """
    argv = [*python(code), "run", "--port", "0", "--", "sh", "-c", "exit 3"]
    done = subprocess.run(argv, cwd=ROOT, timeout=BOUND, check=False, stderr=subprocess.DEVNULL)
    assert done.returncode == 3


def test_fault_084_an_unknown_exit_code_is_no_success_of_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reap = launch.Launched.reap
    monkeypatch.setattr(launch.Launched, "reap", lambda self: reap(self) and None)
    assert cli.main(["run", "--no-pty", "--port", "0", "--", "sh", "-c", "exit 3"]) == 1
    assert "exit code is not known" in capfd.readouterr().err


def test_fault_090_help_says_that_there_is_no_input() -> None:
    text = " ".join(shell("$WS run --help").stdout.split())
    assert "each read returns the end of its input" in text


@pytest.mark.parametrize("pty", ["--pty", "--no-pty"])
def test_fault_130_kill_9_of_run_ends_the_program(pty: str) -> None:
    script = "trap '' HUP TERM; echo $$; while :; do sleep 1000; done"
    with subprocess.Popen(
        [sys.executable, "-m", "ws_hub", "run", pty, "--port", "0", "--", "sh", "-c", script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        run.kill()
        run.wait(BOUND)
        wait_until(lambda: not any(each == pid for each in _sessions()), BOUND)


# --- 130: starts that are cut, and what the guard has to find ------------------------------


def children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, path.read_text().split()))
    return {pid for pid in found if is_alive(pid)}


def cut(number: int, function: Callable[[], Any]) -> Any:
    """Call a function; raise KeyboardInterrupt at the line of ws_hub with this number."""
    left = number

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(str(ROOT / "ws_hub")):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return function()
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("pty", [False, True])
def test_fault_130_a_start_that_is_interrupted_anywhere_leaves_nothing(
    hub: Hub, pty: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = children()
    for number in itertools.count(1):
        try:
            process = cut(number, lambda: start(hub, ["sleep", "1000"], pty=pty))
        except KeyboardInterrupt:
            wait_until(lambda: children() == before)
        else:
            break
    process.close()
    assert number > 20  # so many lines were cut
    assert not [each for each in caplog.records if "died" in each.getMessage()]


def test_fault_130_an_interrupted_wait_for_a_start_ends_the_program(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is there, and the caller of `run_process` has not been told."""
    before, gate, pids = children(), threading.Event(), []

    def parked(pid: int) -> Session:
        pids.append(pid)
        os.kill(os.getpid(), signal.SIGINT)
        gate.wait(BOUND)
        return Session(pid)

    def interrupt(*_: object) -> None:
        gate.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(spawn, "Session", parked)
    handler = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            start(hub, ["sleep", "1000"])
    finally:
        signal.signal(signal.SIGINT, handler)
    wait_until(lambda: children() == before)
    assert pids
    assert hub.last() == {"status": "failed", "error": "its start was interrupted"}
    monkeypatch.undo()
    assert run(hub, ["true"]) == 0


def left_alone(code: str, *argv: str) -> int:
    """Run a script that starts a program and is killed; return what it prints."""
    done = subprocess.run(
        [*python(code.format(root=str(ROOT))), *argv],
        stdout=subprocess.PIPE,
        text=True,
        timeout=BOUND,
        check=False,
    )
    return int(done.stdout)


KILLED_IN_A_START = """
    import os, signal, sys
    sys.path.insert(0, {root!r})
    from ws_hub.process import spawn
    from ws_hub.hub import Hub

    def die(pid):
        print(pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    started = spawn.launch
    if sys.argv[1] == "known":
        spawn.Session = die
    else:  # as in the middle of exec, of which the system tells at its end
        spawn.launch = lambda *args: die(started(*args).pid)
    Hub().start().run_process(["sleep", "1000"], "p")
"""
KILLED = """
    import os, signal, sys
    sys.path.insert(0, {root!r})
    from ws_hub.hub import Hub
    from ws_hub.process import run_process
    def seen(text, name):
        print(text, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    run_process(Hub().start(), sys.argv[1:], "p", on_line=seen).wait()
"""


@pytest.mark.parametrize("when", ["unknown", "known"])
def test_fault_130_kill_9_during_a_start_leaves_no_program(when: str) -> None:
    pid = left_alone(KILLED_IN_A_START, when)
    wait_until(lambda: not is_alive(pid), BOUND)


def test_fault_130_kill_9_ends_a_descendant_in_another_session() -> None:
    code = """
        import subprocess, time
        argv = ["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1000; done"]
        subprocess.Popen(argv, start_new_session=True)
        time.sleep(1000)
    """
    pid = left_alone(KILLED, *python(code))
    wait_until(lambda: not is_alive(pid), BOUND)


def test_fault_130_kill_9_ends_a_program_with_a_newline_in_its_name(tmp_path: Path) -> None:
    name = tmp_path / "a\nb) Z 1\n"
    name.symlink_to("/bin/sleep")
    pid = left_alone(KILLED, "bash", "-c", f'set -m; "{name}" 1000 & echo $!; wait')
    wait_until(lambda: not is_alive(pid), BOUND)


# --- 83: a leader whose main thread is over; no descriptor left ----------------------------

HEADLESS = """
    import ctypes, os, threading, time
    def run():
        stat = f"/proc/{os.getpid()}/stat"
        while open(stat).read().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        print(os.getpid(), flush=True)
        time.sleep(1000)
    threading.Thread(target=run).start()
    ctypes.CDLL(None).pthread_exit(None)
"""


def over(pid: int) -> bool:
    """Say whether no thread of a process is left."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True
    fields = stat.rpartition(")")[2].split()
    return fields[0] in "ZX" and int(fields[17]) <= 1


def test_fault_083_close_ends_a_program_whose_main_thread_is_over(hub: Hub) -> None:
    process = start(hub, python(HEADLESS))
    assert hub.numbers() == [process.pid]
    process.close()
    assert not process.running
    assert process.returncode == -signal.SIGTERM


def test_fault_130_kill_9_ends_a_program_whose_main_thread_is_over() -> None:
    pid = left_alone(KILLED, *python(HEADLESS))
    wait_until(lambda: over(pid), BOUND)


def test_fault_083_close_needs_no_descriptor(hub: Hub) -> None:
    process = start(hub, ["sleep", "1000"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        process.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    assert not process.running
    assert process.returncode == -signal.SIGTERM


# --- 92: more that cannot be started -------------------------------------------------------


@pytest.mark.parametrize("env", [{5: "x"}, {"x": 5}, {b"x": "y"}, [("x", "y")]])
def test_fault_092_an_environment_that_is_not_of_strings_is_refused(hub: Hub, env: Any) -> None:
    with pytest.raises(ConfigError, match="env must be"):
        start(hub, ["true"], env=env)
    assert hub.messages == []


def test_fault_092_a_broken_binary_is_not_the_shells(hub: Hub, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF\2\1\1\0\0\0\necho run by a shell\n")
    broken.chmod(0o755)
    with pytest.raises(ProcessStartError, match="Exec format"):
        start(hub, [str(broken)])
    assert hub.last()["status"] == "failed"


# --- 86: an output that nobody reads -------------------------------------------------------


@contextlib.contextmanager
def unread(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of the command line; go on when its stdout, a pipe, is full."""
    with subprocess.Popen(
        [sys.executable, "-m", "ws_hub", *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as command:
        assert command.stdout is not None
        try:
            with open(f"/proc/self/fd/{command.stdout.fileno()}", "wb") as written:
                # Not by its bytes: of what is shorter than a page, each may take one.
                wait_until(lambda: not select.select([], [written], [], 0)[1], BOUND)
            yield command
        finally:
            command.kill()


FLOOD = ["sh", "-c", "yes $(printf %04095d 1)"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fault_086_run_ends_by_a_signal_although_its_output_is_not_read(
    number: signal.Signals,
) -> None:
    with unread("run", "--no-pty", "--port", "0", "--", *FLOOD) as command:
        command.send_signal(number)
        assert command.wait(BOUND) == 128 + number


def test_fault_086_tail_ends_by_a_signal_although_its_output_is_not_read() -> None:
    with RealHub() as hub, serve(hub) as server:
        hub.send_process_lines("p", ["x" * 4095] * 200)
        with unread("tail", server.url, "process:p") as command:
            with pytest.raises(subprocess.TimeoutExpired):
                command.wait(1.0)  # it waits, while it looks for lines that change no more
            command.terminate()
            assert command.wait(BOUND) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fault_086_up_ends_by_a_signal_although_its_output_is_not_read(
    number: signal.Signals, tmp_path: Path
) -> None:
    procfile = tmp_path / "Procfile"
    procfile.write_text("a: yes $(printf %04091d 1)\nb: sleep 0.5\n", encoding="utf-8")
    with unread("up", "--port", "0", "--keep-going", str(procfile)) as command:
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(1.0)  # it waits, also to say that b has ended
        command.send_signal(number)
        assert command.wait(BOUND) == 128 + number


def test_fault_086_run_waits_for_a_slow_reader_at_its_own_end() -> None:
    script = "yes $(printf %04095d 1) | head -64; exit 3"
    with unread("run", "--no-pty", "--port", "0", "--", "sh", "-c", script) as command:
        assert command.stdout is not None
        assert len(command.stdout.read().splitlines()) == 64
        assert command.wait(BOUND) == 3
