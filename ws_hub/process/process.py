"""A program's output, live on a hub.

Must not know clients, sockets, or who watches. The way of a line::

    child ──pipe or terminal──> ws-hub:process:<id> ──Lines──> hub.send_process_output

One thread a process starts it, reads, sends, and waits with the hub while its queue is
full; the child then waits at its pipe. `running` comes first and `exited` last. What it has
started ends with it where it is we who end it (`session`), and with us (`guard`).

Signal handlers run on the main thread alone, so KeyboardInterrupt never cuts a start in two:
the caller, who only waits for it, is interrupted, and then has it undone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .. import threads
from ..config import HubConfig
from ..errors import ConfigError, HubFull, HubNotRunning, WsHubError, excerpt
from ..log import get_logger
from ..reentrant import Event, Lock
from .output import Pump
from .pace import Pace
from .spawn import Child, ProcessStartError, check_argv, check_env, signal_name
from .writers import log_handler, writer

__all__ = [
    "ExitCodeUnknown",
    "Process",
    "ProcessStartError",
    "log_handler",
    "run_process",
    "writer",
]

logger = get_logger(__name__)

_LOOK = 0.25  # seconds between looks at whether to kill, while viewers are waited for
_KILL_AFTER = 2.0  # seconds from SIGTERM to SIGKILL, when it is we who end a child
_TAKEN = "its exit code is not known: SIGCHLD is ignored, or something waits for any child"

OnLine = Callable[[str, str], object]


class StreamingHub(Protocol):
    """What a process needs of the hub that it streams to; see `Hub` for the methods."""

    @property
    def config(self) -> HubConfig: ...

    @property
    def running(self) -> bool: ...

    def at_stop(self, function: Callable[[], object]) -> Callable[[], None]: ...

    def unpaced(self) -> contextlib.AbstractContextManager[None]: ...

    def wait_for_room(self, channel: str, timeout: float | None = None) -> bool: ...

    def process_channel(self, process_id: str) -> str: ...

    def send_process_lines(self, process_id: str, lines: Sequence[str]) -> None: ...

    def send_process_status(
        self,
        process_id: str,
        status: str,
        exit_code: int | None = None,
        *,
        extra: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None: ...


class ExitCodeUnknown(WsHubError):
    """A program has ended, and nobody can say how: another part of this process was told."""


def run_process(
    hub: StreamingHub,
    argv: Sequence[str],
    process_id: str | None = None,
    *,
    pty: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    on_line: OnLine | None = None,
    backpressure: bool = False,
) -> Process:
    """Start a program and stream its output to the channel of its process id.

    The channel gets the status `running`, the texts that `docs/processes.md` describes,
    usually one a line, and at the end `exited` with the exit code; or `failed`, when the
    program cannot be started. There is no shell, and no input: what the program reads is at
    its end. It begins with the default for every signal, and none blocked; SIGHUP, SIGINT
    and SIGQUIT stay ignored where we ignore them.

    Args:
        hub: a hub that runs.
        argv: the program and its arguments.
        process_id: names it; None for its name with eight random digits.
        pty: run it in a pseudo-terminal of COLUMNS x LINES (80x24), so that it keeps its
            colours and progress bars.
        cwd: where it runs; None for here.
        env: its environment; None for ours.
        on_line: called with each text and "stdout" or "stderr", on the stream's thread.
        backpressure: slow the program to the pace of its slowest viewer. Otherwise it
            runs at its own, and who is slower skips lines, which is counted and said.

    Raises ConfigError (argv; env; an id that runs already), InvalidName, HubNotRunning,
    HubFull, and ProcessStartError, an OSError, when it cannot be started. Where anything is
    raised, KeyboardInterrupt too, nothing is left running and the id is free.

    Threads: any; waits for the program to start, not for its end.
    """
    command, environment = check_argv(argv), check_env(env)
    name = _new_id(command[0]) if process_id is None else process_id
    hub.process_channel(name)  # raises for an id that is none
    if not hub.running:
        raise HubNotRunning(f"the hub is not running: {excerpt(command[0])} was not started")
    _streaming.check(hub, name)
    process = Process(hub, name, on_line, backpressure)
    try:
        process._start(functools.partial(Child, command, terminal=pty, cwd=cwd, env=environment))
        return process
    except BaseException as error:
        process._abandon(error)
        raise


def _new_id(program: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", os.path.basename(program))[:64].strip("-.")
    return f"{name or 'process'}-{secrets.token_hex(4)}"


class Process:
    """A program whose output a hub streams. `run_process` makes it.

    Owns the child and the thread that streams it. `with` ends the program on leaving.
    """

    def __init__(
        self,
        hub: StreamingHub,
        process_id: str,
        on_line: OnLine | None,
        backpressure: bool = False,
    ) -> None:
        self.hub = hub
        self.process_id = process_id
        self._child: Child  # from `_opened` on, where there is no `_error`
        self._on_line = on_line
        self._take_back: Callable[[], None] = lambda: None
        # guards: _kill_at, _thread, _streams, _abandoned. Nothing is taken under it.
        self._lock = Lock()
        self._kill_at: float | None = None
        self._thread: threading.Thread | None = None  # the stream's, written by itself
        self._streams = False  # the start is complete: what ends it is told by `exited`
        self._abandoned = False  # the caller of `run_process` gets an exception
        # Of the start: its own, or that of the caller; for `failed`.
        self._error: BaseException | None = None
        self._opened = Event()  # set by the stream's thread: there is a child, or an error
        self._go = Event()  # set by the caller: `running` is said, or it is abandoned
        # Of the stream's thread, but for the return code, which it writes once:
        self._deaf = False  # the hub has stopped
        self._paced = backpressure
        self._pace = Pace()
        if backpressure:
            config = hub.config
            self._pace = Pace(config.outbox_messages, config.outbox_bytes, self._sharers)
        self._killed = False  # because `_kill_at` had come
        self._returncode: int | None = None
        self._asked = False  # written by any thread, once; read by the stream's at its end
        # Written by the stream's thread at its end, and by `forget`.
        self._ended = False
        threads.forget_after_fork(self)

    def forget(self) -> None:
        """Be over in a forked child: the program is the parent's.

        Threads: the only one there is, right after a fork.
        """
        # guards: as before.
        self._lock = Lock()
        self._kill_at = time.monotonic()
        self._thread = None
        self._ended = True
        self._opened.set()  # or a fork in a signal handler would wait for the start

    # --- any thread ------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The system's number of the process, and of its process group.

        Threads: any.
        """
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it.

        None while it runs, and for ever when it cannot be known (`wait`).

        Threads: any.
        """
        return self._returncode

    @property
    def running(self) -> bool:
        """Whether it has yet to end.

        Threads: any.
        """
        return not self._ended

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has exited and all of it is sent; return the exit code.

        Raises TimeoutError after `timeout` seconds; ExitCodeUnknown when the exit code
        cannot be known: the application ignores SIGCHLD, or another part of it waits for
        any child (`os.waitpid(-1)`) and was told instead; or this is a fork of the process
        that has started it.

        Threads: any but its own (on_line), where it raises RuntimeError; blocks.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"{self!r} cannot wait for itself in on_line")
        if not threads.join(self._thread, threading.TIMEOUT_MAX if timeout is None else timeout):
            raise TimeoutError(f"{self!r} has not ended within {timeout:g} s")
        if self._returncode is None:
            raise ExitCodeUnknown(f"{self!r} has ended, but {_TAKEN}")
        return self._returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to it and to its process group; none once it has ended.

        Threads: any; does not wait.
        """
        self._child.signal(number)

    def terminate(self) -> None:
        """Send SIGTERM, as `send_signal` does.

        Threads: any; does not wait.
        """
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, as `send_signal` does.

        Threads: any; does not wait.
        """
        self.send_signal(signal.SIGKILL)

    def ask_to_end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal as `send_signal` does; what it leaves running is ended as by `close`.

        For a signal that the program may answer in its own time, such as that of Ctrl-C,
        which what runs in its background ignores.

        Threads: any; does not wait.
        """
        self._asked = True
        self.send_signal(number)

    def close(self) -> None:
        """End it, with all that it has started: SIGTERM, and SIGKILL two seconds later.

        That is its session, whatever the process groups in it, and the descendants in
        other sessions whose parents live; a daemon, which has no parent among these any
        more, lives on. Idempotent. What it had printed is sent, and `exited`.

        Threads: any; waits for the end, save in on_line.
        """
        kill_at = self._begin_end()
        if threads.join(self._thread, kill_at - time.monotonic()):
            return
        self._child.signal_all(signal.SIGKILL)
        if not threads.join(self._thread, _KILL_AFTER):
            logger.warning("%r has ended, but the hub takes the rest slowly", self)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Process {self.process_id} pid={self._child.pid} returncode={self._returncode}>"

    def _begin_end(self) -> float:
        """Send SIGTERM, the first time; return when SIGKILL is due."""
        with self._lock:
            if self._kill_at is not None:
                return self._kill_at
            kill_at = self._kill_at = time.monotonic() + _KILL_AFTER
        self._child.signal_all(signal.SIGTERM)
        return kill_at

    def _hub_stops(self) -> None:
        # All of the hub's first: their time runs together, not one after the other.
        for process in _streaming.of(self.hub):
            process._begin_end()
        self.close()

    # --- the starting thread ---------------------------------------------------------------

    def _start(self, spawn: Callable[[], Child]) -> None:
        threads.start(f"ws-hub:process:{self.process_id}", self._run, spawn)
        self._opened.wait()
        if self._error is not None:
            raise self._error
        self._take_back = self.hub.at_stop(self._hub_stops)
        self.hub.send_process_status(self.process_id, "running")
        self._go.set()

    def _abandon(self, error: BaseException) -> None:
        """Have the stream's thread undo the start; wait until it has."""
        with self._lock:
            self._abandoned = True
            self._error = self._error or error
            thread, streams = self._thread, self._streams
        self._go.set()
        if streams:
            self._kill()
        if thread is None:  # it has not begun, and will not
            self._say_failed()
        threads.join(thread, _KILL_AFTER)
        self._error = None  # its traceback refers to this

    # --- the stream's thread ---------------------------------------------------------------

    def _run(self, spawn: Callable[[], Child]) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._thread = threading.current_thread()
        with contextlib.ExitStack() as then:  # last first, each of them whatever happens
            try:
                pump = self._open(spawn, then)
            except BaseException as error:  # noqa: BLE001 - it is raised where it was called
                self._error = error
                return
            finally:
                self._opened.set()
            self._go.wait()
            with self._lock:
                self._streams = not self._abandoned
            if self._streams:
                self._stream(pump)

    def _open(self, spawn: Callable[[], Child], then: contextlib.ExitStack) -> Pump:
        """Start the program; what is to be done at its end is left in `then`."""
        _streaming.reserve(self.hub, self.process_id)
        then.callback(lambda: self._take_back())
        then.callback(_streaming.release, self.hub, self.process_id)
        then.callback(self._say_end)
        self._child = spawn()
        then.callback(self._clean_up)
        pump = Pump(self._child, self._deliver)
        then.callback(pump.close)
        _streaming.add(self)
        return pump

    def _stream(self, pump: Pump) -> None:
        try:
            if not self.hub.running:
                self._begin_end()  # nobody might call what was registered
            # Slowed by `_pace` or by nobody, never by both.
            with self.hub.unpaced():
                while pump.turn(None if self._killed else self._kill_at):
                    self._kill_if_due()
                pump.finish()
        except BaseException:  # an error of ours: it is on its way to the log
            self._kill()
            raise

    def _kill(self) -> None:
        """Have it and all that it has started end now."""
        with self._lock:
            self._kill_at = time.monotonic()
        self._killed = True
        self._child.signal_all(signal.SIGKILL)

    def _clean_up(self) -> None:
        try:
            if not self._streams:
                self._kill()
            if self._asked:
                self._begin_end()
            # What runs on after the end that it came to by itself was meant to.
            if self._kill_at is not None and not self._child.end_session(self._kill_at):
                logger.warning("%r has ended, but something that it started has not", self)
            self._returncode = self._child.reap()
        finally:
            self._ended = True
            self._child.close()

    def _deliver(self, name: str, texts: list[str]) -> None:
        for text in texts:
            if self._on_line is not None:
                self._call_on_line(text, name)
        for part, is_too_far in self._pace.parts(texts):
            if is_too_far:
                self._wait_for_viewers()
            self._send(part)

    def _send(self, texts: list[str]) -> None:
        while not self._deaf:
            try:
                self.hub.send_process_lines(self.process_id, texts)
                return
            except HubFull:  # wait on: no line of a process is lost
                self._kill_if_due()
            except HubNotRunning:
                self._go_deaf()

    def _wait_for_viewers(self) -> None:
        channel = self.hub.process_channel(self.process_id)
        while not self._deaf and not self._killed:
            try:
                if self.hub.wait_for_room(channel, _LOOK):
                    return
            except HubFull:  # as above
                pass
            except HubNotRunning:
                self._go_deaf()
            self._kill_if_due()

    def _sharers(self) -> int:
        return sum(each._paced for each in _streaming.of(self.hub))

    def _go_deaf(self) -> None:
        self._deaf = True
        self._begin_end()

    def _kill_if_due(self) -> None:
        if self._kill_at is not None and self._kill_at <= time.monotonic() and not self._killed:
            self._killed = True
            self._child.signal_all(signal.SIGKILL)

    def _call_on_line(self, text: str, name: str) -> None:
        assert self._on_line is not None
        try:
            self._on_line(text, name)
        except BaseException:  # noqa: BLE001 - user code, sys.exit() too: the stream goes on
            logger.exception("on_line of %r failed and is not called again", self)
            self._on_line = None

    def _say_end(self) -> None:
        if self._streams:
            self._say_exited()
        else:
            self._say_failed()

    def _say_failed(self) -> None:
        error = self._error
        text = str(error.__cause__ or error) if error is not None else ""
        # A full hub has been waited for already.
        timeout = 0 if isinstance(error, HubFull) else None
        extra = {"error": text or "its start was interrupted"}
        try:
            self.hub.send_process_status(self.process_id, "failed", extra=extra, timeout=timeout)
        except WsHubError as refused:  # the caller has an exception on its way already
            logger.debug("nobody hears that %s failed: %s", self.process_id, refused)

    def _say_exited(self) -> None:
        code = self._returncode
        extra: dict[str, object] = {}
        if code is None:
            extra = {"exitCode": None, "error": _TAKEN}
        elif code < 0:
            extra = {"signal": signal_name(-code)}
        while not self._deaf:
            try:
                self.hub.send_process_status(self.process_id, "exited", code, extra=extra)
                return
            except HubFull:
                continue
            except HubNotRunning:
                return


class _Streaming:
    """The processes that are streamed now.

    Without a lock: each change is one call of C. A signal handler that starts a program may
    have interrupted the thread that would hold it, and waits for another one.
    """

    def __init__(self) -> None:
        self.forget()
        threads.forget_after_fork(self)

    def forget(self) -> None:
        """Start empty, as after a fork."""
        self._processes: dict[tuple[int, str], Process | object] = {}  # or a mark: it starts

    def check(self, hub: StreamingHub, process_id: str) -> None:
        """Raise ConfigError when an id of a hub's is taken."""
        if (id(hub), process_id) in self._processes:
            raise _taken(process_id)

    def reserve(self, hub: StreamingHub, process_id: str) -> None:
        """Take an id of a hub's; raises ConfigError when it is taken."""
        mark = object()
        if self._processes.setdefault((id(hub), process_id), mark) is not mark:
            raise _taken(process_id)

    def add(self, process: Process) -> None:
        """Fill a reserved place: the process has a child that can be ended."""
        self._processes[id(process.hub), process.process_id] = process

    def release(self, hub: StreamingHub, process_id: str) -> None:
        """Give an id back."""
        self._processes.pop((id(hub), process_id), None)

    def of(self, hub: StreamingHub) -> list[Process]:
        """Return the processes of a hub that have a child."""
        found = list(self._processes.values())
        return [each for each in found if isinstance(each, Process) and each.hub is hub]


def _taken(process_id: str) -> ConfigError:
    return ConfigError(f"process_id {process_id!r} is running already")


_streaming = _Streaming()
