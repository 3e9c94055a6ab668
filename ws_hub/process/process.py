"""Runs a program and streams its output to a channel.

The way of a line::

    child ──pipe or terminal──> ws-hub:process:<id> ──Lines──> hub.send_process_lines

One thread per process starts it, reads its output, publishes it, and waits while the
hub's queue is full; the child then waits at its full pipe. The status `running` is
published first and `exited` last. When we end the program, the processes that it has
started end with it (`session`); when our process ends, all of them end (`guard`).

Signal handlers run on the main thread alone, so KeyboardInterrupt cannot interrupt a
start half way: the calling thread only waits for it, and has it undone afterwards.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from .. import threads
from ..config import HubConfig
from ..errors import ConfigError, HubFull, HubNotRunning, WsHubError, excerpt
from ..lines import Texts
from ..log import get_logger
from ..mask.masks import Masks, masks_of
from ..mask.stream import StreamMask
from ..protocol.names import AnyId, id_text
from ..reentrant import Event, Lock
from ..validation import check_bound, check_function, check_timeout
from .log_file import LogFile, ProcessLog, as_log, open_log
from .log_folder import note_log
from .output import OutputReader
from .pace import Pace
from .running import Running
from .samples import Sampler
from .spawn import (
    Child,
    ProcessStartError,
    check_argv,
    check_cwd,
    check_env,
    check_size,
    check_stdin,
    check_terminal,
)
from .status import CODE_UNKNOWN, of_end, of_usage
from .stdin import InputClosed
from .terms import GRACE, Terms, Watch
from .usage import Usage

__all__ = [
    "BeginningAttempts",
    "ExitCodeUnknown",
    "HasFileno",
    "Process",
    "ProcessStartError",
    "begin",
    "find_process",
    "run_process",
]

logger = get_logger(__name__)

_LOOK = 0.25  # seconds of one wait for subscribers: then SIGKILL may be due
_WRITE_WITHIN = 10.0  # seconds in which a program takes its input
_LAST_WAIT = 2.0  # seconds after SIGKILL until a close waits no longer

OnLine = Callable[[str, str], object]
OnOutput = Callable[[bytes, str], object]


class HasFileno(Protocol):
    """An open file, or what has one."""

    def fileno(self) -> int:
        """Return its descriptor."""


class BeginningAttempts(Protocol):
    """Keeps what earlier attempts at the work of a program have printed last."""

    def begin(self, process_id: str, attempt: int | None) -> Mapping[str, object]:
        """Return the fields of all statuses of an attempt that begins."""


class StreamingHub(Protocol):
    """The methods of the hub that streaming a process needs; see `Hub` for each."""

    @property
    def config(self) -> HubConfig: ...

    @property
    def running(self) -> bool: ...

    @property
    def masks(self) -> Masks: ...

    def at_stop(self, function: Callable[[], object]) -> Callable[[], None]: ...

    def unpaced(self) -> contextlib.AbstractContextManager[None]: ...

    def wait_for_room(self, channel: str, timeout: float | None = None) -> bool: ...

    def process_channel(self, process_id: str) -> str: ...

    def claim_process(self, process_id: str) -> Callable[[], object]: ...

    def add_log(self, process_id: str, path: str | None) -> None: ...

    @property
    def attempts(self) -> BeginningAttempts: ...

    def send_process_lines(self, process_id: str, lines: Texts, *, stream: str) -> None: ...

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
    """A program has ended, and its exit code is not known: other code has reaped it."""


def run_process(
    hub: StreamingHub,
    argv: Sequence[str],
    process_id: AnyId | None = None,
    *,
    pty: bool | tuple[int, int] = False,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    on_line: OnLine | None = None,
    on_output: OnOutput | None = None,
    backpressure: bool = False,
    mask: Iterable[object] = (),
    timeout: float | None = None,
    idle_timeout: float | None = None,
    grace: float = GRACE,
    attempt: int | None = None,
    stdin: bool | HasFileno = False,
    log: ProcessLog | str | os.PathLike[str] | bool | None = None,
) -> Process:
    """Start a program and stream its output to the channel of its process id.

    The channel gets the status `running`, the texts that `docs/processes.md` describes,
    usually one a line, and at the end `exited` with the exit code; or `failed`, when the
    program cannot be started. No shell is involved. It starts with the default action for
    every signal, and with none blocked; SIGHUP, SIGINT and SIGQUIT stay ignored when our
    process ignores them.

    Args:
        hub: a hub that runs.
        argv: the program and its arguments.
        process_id: the process id, which names the channel `process:<id>`; an int or a UUID
            means its text, None the program's name with eight random hex digits.
        pty: run it in a pseudo-terminal, so that it keeps its colours and progress bars. True
            for one of COLUMNS x LINES (80x24), or its columns and rows.
        cwd: its working directory; None for ours.
        env: its environment; None for ours.
        on_line: called with each text and "stdout" or "stderr", on the thread that reads
            the output.
        on_output: called with the bytes of the output, masked, and the same.
        backpressure: slow the program down to its slowest viewer. Otherwise it runs at
            its own speed, and a viewer that is slower skips lines: it gets a `lagged`
            message with their number.
        mask: secrets, beside those of `hub.mask`, in place of which the output has `***`: texts,
            MaskEnv for variables of its environment, compiled regular expressions.
        timeout: seconds until the program is ended, with `"reason": "timeout"` in its status.
        idle_timeout: seconds without output until it is ended, with the reason
            `"idle_timeout"`. It is not idle while the hub, or a viewer, slows it.
        grace: seconds from SIGTERM to SIGKILL, whatever the program is ended for.
        attempt: which attempt at the same work this is, from 1; its statuses say so.
        stdin: True for input that `Process.write` writes; an open file, such as sys.stdin,
            that becomes its input; False for none: each read returns the end of the input.
        log: a file for the whole output, as a path or a ProcessLog; True for
            `<process id>.log` in the folder `HubConfig.logs`, where a relative path begins
            too. A file that is there is not replaced, unless a ProcessLog says so.

    Raises ConfigError (argv, env, mask, log and the numbers), ProcessAlreadyRunning, InvalidName,
    HubNotRunning, HubFull, and ProcessStartError, an OSError, when it cannot be started.
    When it raises anything, KeyboardInterrupt included, no process is left running and
    the process id is free.

    Threads: any; waits for the program to start, not for its end.
    """
    if not isinstance(argv, (str, bytes)) and isinstance(argv, Iterable):
        argv = list(argv)
    masks = masks_of(hub.masks, mask, env)
    check_argv(masks.value(argv))  # what these raise has the value
    check_env(masks.value(env))
    command, environment = check_argv(argv), check_env(env)
    check_cwd(cwd)
    source = check_stdin(stdin)
    terminal = check_terminal(pty)
    if not isinstance(backpressure, bool):
        raise ConfigError(f"backpressure must be True or False, not {excerpt(backpressure)}")
    terms = Terms(timeout, idle_timeout, grace, attempt)
    if on_line is not None:
        check_function("on_line", on_line, "text, stream")
    if on_output is not None:
        check_function("on_output", on_output, "data, stream")
    program = masks.text(command[0])
    name = _new_id(program) if process_id is None else id_text(process_id, "process id")
    hub.process_channel(name)  # raises InvalidName
    if not hub.running:
        raise HubNotRunning(
            f"the hub is not running, so {excerpt(program)} was not started: start() it first"
        )
    _streaming.check(hub, name)
    process = Process(hub, name, on_line, backpressure, terms=terms, on_output=on_output)
    process.masks = masks
    process.log = None if log is None else as_log(log, name, hub.config.logs)
    spawn = functools.partial(
        Child, command, terminal=terminal, cwd=cwd, env=environment, stdin=source
    )
    return begin(process, spawn)


def begin(process: Process, spawn: Callable[[], Child]) -> Process:
    """Start the program of a new `Process` by `spawn`, and stream it; return the process.

    Raises what `run_process` raises, with no process left running.

    Threads: any, once for each process; waits for the program to start, not for its end.
    """
    try:
        process._start(spawn)
        return process
    except BaseException as error:
        process._abandon(error)
        raise


def _spawned(spawn: Callable[[], Child], masks: Masks) -> Child:
    """Start a program; raises ProcessStartError without secrets."""
    try:
        return spawn()
    except ProcessStartError as error:
        if masks.finder is None:
            raise
        refused = error.without(masks)
    raise refused from refused.__cause__


def _new_id(program: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", os.path.basename(program))[:64].strip("-.")
    return f"{name or 'process'}-{secrets.token_hex(4)}"


class Process:
    """A program whose output is streamed to a hub. `run_process` makes it.

    Owns the child and the thread that streams it. Leaving a `with` ends the program.

    Args:
        hub: a hub that runs.
        process_id: the process id, which names the channel.
        on_line: called with each text and the name of its stream.
        backpressure: slow the program down to its slowest viewer.
        terms: the bounds of its time, and the number of the attempt.
        on_output: called with the bytes that are read and the name of their stream.

    Attributes:
        owner: what must not be collected before the program has ended.
        masks: the secrets of its output, those of the hub; replaced before it begins.
        reason: why we have ended it: "timeout", "idle_timeout", or what `stop` was given, such
            as "stopped"; "" for anything else.
        usage: what it has used, as a `Usage`: at the last sample (`HubConfig.usage_interval`),
            and after its end; None when that is not known.
        log: the file of its whole output; set before it is started.
        typed: the input that viewers were told, for its secrets; set by what writes it.
    """

    owner: object = None
    typed: StreamMask | None = None
    log: ProcessLog | None = None

    def __init__(
        self,
        hub: StreamingHub,
        process_id: str,
        on_line: OnLine | None = None,
        backpressure: bool = False,
        *,
        terms: Terms = Terms(),  # noqa: B008 - frozen
        on_output: OnOutput | None = None,
    ) -> None:
        self.hub = hub
        self.masks = hub.masks
        self.process_id = process_id
        self._child: Child  # from `_opened` on, where there is no `_error`
        self._on_line = on_line
        self._on_output = on_output
        self._terms = terms
        self._unregister: Callable[[], None] = lambda: None
        # guards: _kill_at, reason, _thread, _streams, _abandoned. Nothing is taken under it.
        self._lock = Lock()
        self._kill_at: float | None = None
        self.reason = ""
        self._thread: threading.Thread | None = None  # the streaming thread; set by itself
        self._streams = False  # the start is complete: its end is published as `exited`
        self._abandoned = False  # `run_process` raises: its end is published as `failed`
        # Why the start failed: the streaming thread's exception, or the caller's.
        self._error: BaseException | None = None
        self._opened = Event()  # set by the streaming thread: there is a child, or an error
        self._go = Event()  # set by the caller: `running` is published, or it is abandoned
        # Owned by the streaming thread, which writes the return code once:
        self._hub_stopped = False  # the hub has stopped
        self._latest = 0.0  # when the newest text was read
        self._fields: Mapping[str, object] = {}  # of all its statuses
        self._paced = backpressure
        self._pace = Pace()
        if backpressure:
            config = hub.config
            self._pace = Pace(config.outbox_messages, config.outbox_bytes, self._sharers)
        self._watch: Watch  # from `_opened` on, as `_child`
        self._sampler: Sampler
        self._log: LogFile | None = None
        self._killed = False  # SIGKILL was sent
        self.usage: Usage | None = None
        self._returncode: int | None = None
        # Set once, by any thread; read by the streaming thread at the program's end.
        self._end_requested = False
        # Written by the streaming thread at its end, and by `forget`.
        self._ended = False
        threads.forget_after_fork(self)

    def forget(self) -> None:
        """Count as ended in a forked child: the program belongs to the parent.

        Threads: the only one of the child, right after the fork.
        """
        # guards: as before.
        self._lock = Lock()
        self._kill_at = time.monotonic()
        self._thread = None
        self._ended = True
        self._opened.set()  # otherwise a fork in a signal handler would wait for the start

    # --- any thread ------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The operating system's process id, and that of its process group.

        Threads: any.
        """
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it.

        None while it runs, and afterwards when the exit code cannot be known (see `wait`).

        Threads: any.
        """
        return self._returncode

    @property
    def running(self) -> bool:
        """Whether it has not ended yet.

        Threads: any.
        """
        return not self._ended

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has exited and its output is published; return the exit code.

        Raises TimeoutError after `timeout` seconds (None: no limit); ExitCodeUnknown when
        the exit code cannot be known: the application ignores SIGCHLD, or other code of it
        waits for any child (`os.waitpid(-1)`) and has got the exit code instead; or this
        is a forked child of the process that has started it.

        Threads: any but the streaming one (on_line), where it raises RuntimeError; blocks.
        """
        check_timeout("timeout", timeout)
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                f"{self!r} cannot wait for itself in on_line: use wait() on another thread"
            )
        longest = threading.TIMEOUT_MAX
        if not threads.join(self._thread, longest if timeout is None else min(timeout, longest)):
            raise TimeoutError(
                f"{self!r} has not ended within {timeout:g} s: wait longer, or terminate() it"
            )
        if self._returncode is None:
            raise ExitCodeUnknown(f"{self!r} has ended, but {CODE_UNKNOWN}")
        return self._returncode

    def write(self, data: str | bytes, timeout: float = _WRITE_WITHIN) -> None:
        r"""Write text, as UTF-8, or bytes to the input of a program with `stdin=True`.

        A newline is not added. In a terminal it is what is typed: the program's terminal
        shows it, takes lines of 4,095 bytes at most, and makes a SIGINT of "\x03". When several
        threads write, each writes all of its data in turn.

        Raises InputClosed when the program has closed its input, has ended, or was started
        without; InputTimeout when it has not taken all of it within `timeout` seconds, whose
        `written` says how many bytes it has taken.

        Threads: any; waits at most `timeout` seconds.
        """
        given: object = data
        if not isinstance(given, (str, bytes)):
            raise TypeError(f"data must be text or bytes, not {excerpt(data)}")
        bound = check_bound("timeout", timeout)
        encoded = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        if self._child.input is None:
            raise InputClosed(f"{self!r} has no input: start it with run_process(..., stdin=True)")
        self._child.input.write(encoded, bound)

    def close_stdin(self, timeout: float = _WRITE_WITHIN) -> None:
        """End the program's input, once others have written theirs. Idempotent.

        With a pipe it is closed. In a terminal its end-of-file character is written (Ctrl-D),
        twice behind the beginning of a line: the program's next read returns nothing, and one
        after that waits again. A program that has put its terminal into raw mode reads the
        character. After that `write` raises InputClosed. Raises InputTimeout as `write` does.

        Threads: any; waits at most `timeout` seconds.
        """
        bound = check_bound("timeout", timeout)
        if self._child.input is not None:
            self._child.input.close(bound)

    def resize(self, columns: int, rows: int) -> None:
        """Set the size of its terminal; the system tells the program by SIGWINCH.

        Does nothing once the program has closed its terminal. Raises ConfigError for a size
        that is none, and for a program that was started without `pty=True`.

        Threads: any; does not wait.
        """
        check_size(columns, rows)
        if self._child.size is None:
            raise ConfigError(f"{self!r} has no terminal: start it with run_process(..., pty=True)")
        if self._child.resize(columns, rows) and self._log is not None:
            self._log.resized(columns, rows)

    @property
    def takes_input(self) -> bool:
        """Whether it was started with `stdin=True`.

        Threads: any.
        """
        return self._child.input is not None

    @property
    def has_terminal(self) -> bool:
        """Whether it was started with `pty`.

        Threads: any.
        """
        return self._child.size is not None

    @property
    def shows_input(self) -> bool:
        """Whether what is written may be seen: its terminal shows it, or it has none.

        A terminal does not while the program asks for a password, or reads single keys.

        Threads: any; does not wait.
        """
        return self._child.shows_input()

    def stop(self, reason: str = "stopped", *, kill: bool = False) -> None:
        """End it as `close` does, without waiting: SIGTERM, after `grace` SIGKILL.

        With `kill`, SIGKILL at once. `reason` is in its exit status, if nothing else has begun
        to end it. Does nothing once it has ended. Raises RuntimeError when the system has no
        thread for it.

        Threads: any; does not wait.
        """
        if self._ended:
            return
        if kill:
            with self._lock:
                self.reason = self.reason or (reason if self._kill_at is None else "")
            self._kill()
        else:
            self._begin_end(reason)
            threads.start(f"ws-hub:stop:{self.process_id}", self.close)

    def send_signal(self, number: int) -> None:
        """Send a signal to it and its process group; does nothing once it has ended.

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

    def kill_session(self) -> None:
        """Send SIGKILL to every process that `close` ends, now.

        Threads: any; does not wait.
        """
        with self._lock:
            self._kill_at = time.monotonic()
        self._child.signal_all(signal.SIGKILL)

    def ask_to_end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal as `send_signal` does; end what the program leaves running.

        For a signal that the program handles in its own time, such as that of Ctrl-C,
        which processes in its background ignore: once the program has ended, those are
        ended as by `close`.

        Threads: any; does not wait.
        """
        self._end_requested = True
        self.send_signal(number)

    def close(self) -> None:
        """End it and the processes that it has started: SIGTERM, after `grace` SIGKILL.

        That is its session, with all process groups in it, and descendants in other
        sessions whose parents live; a daemon, whose parent has ended, is not reached.
        Its output so far and `exited` are published. Idempotent.

        Threads: any; waits for the end, `grace` and two seconds at most; in on_line not at all.
        """
        kill_at = self._begin_end()
        if threads.join(self._thread, kill_at - time.monotonic()):
            return
        self._child.signal_all(signal.SIGKILL)
        if not threads.join(self._thread, min(self._terms.grace, _LAST_WAIT)):
            logger.warning("%r has ended, but the hub takes the rest slowly", self)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Process {self.process_id} pid={self._child.pid} returncode={self._returncode}>"

    def _begin_end(self, reason: str = "") -> float:
        """Send SIGTERM, once; return when SIGKILL is due."""
        with self._lock:
            if self._kill_at is not None:
                return self._kill_at
            kill_at = self._kill_at = time.monotonic() + self._terms.grace
            self.reason = reason
        self._child.signal_all(signal.SIGTERM)
        return kill_at

    def _hub_stops(self) -> None:
        # All processes of the hub first, so that their two seconds run at the same time.
        for process in _streaming.of(self.hub):
            process._begin_end()
        self.close()

    # --- the thread that calls run_process -------------------------------------------------

    def _start(self, spawn: Callable[[], Child]) -> None:
        threads.start(f"ws-hub:process:{self.process_id}", self._run, spawn)
        self._opened.wait()
        if self._error is not None:
            raise self._error
        self._unregister = self.hub.at_stop(self._hub_stops)
        self.hub.send_process_status(self.process_id, "running", extra=self._fields)
        self._go.set()

    def _abandon(self, error: BaseException) -> None:
        """Have the streaming thread undo the start; wait until it has."""
        with self._lock:
            self._abandoned = True
            self._error = self._error or error
            thread, streams = self._thread, self._streams
        self._go.set()
        if streams:
            self._kill()
        if thread is None:  # _run has not begun, and returns at once if it ever does
            self._send_failed()
        threads.join(thread, min(self._terms.grace, _LAST_WAIT))
        self._error = None  # its traceback refers to self

    # --- streaming thread ------------------------------------------------------------------

    def _run(self, spawn: Callable[[], Child]) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._thread = threading.current_thread()
        with contextlib.ExitStack() as at_end:  # runs all of them, in reverse order
            try:
                reader = self._open(spawn, at_end)
            except BaseException as error:  # noqa: BLE001 - run_process raises it
                self._error = error
                return
            finally:
                self._opened.set()
            self._go.wait()
            with self._lock:
                self._streams = not self._abandoned
            if self._streams:
                self._stream(reader)

    def _open(self, spawn: Callable[[], Child], at_end: contextlib.ExitStack) -> OutputReader:
        """Start the program; register in `at_end` what follows when it has ended."""
        _streaming.reserve(self.hub, self.process_id)
        at_end.callback(lambda: self._unregister())
        at_end.callback(_streaming.release, self.hub, self.process_id)
        at_end.callback(self.hub.claim_process(self.process_id))
        self._fields = self.hub.attempts.begin(self.process_id, self._terms.attempt)
        at_end.callback(self._send_end)
        if self.log is not None:
            self._log = open_log(self.log)
            at_end.callback(self._close_log, self._log)
        self._child = _spawned(spawn, self.masks)
        interval = 0 if self._child.peak is None else self.hub.config.usage_interval
        self._sampler = Sampler(self._child.pid, interval, time.monotonic())
        if self._child.input is not None:
            self._child.input.whose = repr(self)
        at_end.callback(self._clean_up)
        reader = OutputReader(self._child, self._deliver, seen=self._seen, masks=self.masks)
        at_end.callback(reader.close)
        if self._log is not None:
            self._log.begin(self._child.size)
        path = None if self._log is None else self._log.path
        note_log(self.hub.config.logs, self.process_id, path)
        self.hub.add_log(self.process_id, path)
        _streaming.add(self)
        self._watch = Watch(self._terms, time.monotonic())
        return reader

    def _stream(self, reader: OutputReader) -> None:
        try:
            if not self.hub.running:
                self._begin_end()  # it may have stopped before at_stop was called
            # The hub's own pacing is off: `_pace` slows the program, or nothing does.
            with self.hub.unpaced():
                while reader.turn(self._next_turn()):
                    self._child.look(now := time.monotonic())
                    self._sample(now)
                    self._watch.touch(reader.read_at)
                    self._end_when_due(reading=True)
                    if self._log is not None:
                        self._log.turn()
                reader.finish()
        except BaseException:  # a bug of ours, which the thread's top logs
            self._kill()
            raise

    def _next_turn(self) -> float | None:
        """Return when the reader is to return at the latest; None for no such time."""
        log_due = None if self._log is None else self._log.due
        times = [self._next_due(), log_due, self._sampler.due]
        return min([each for each in times if each is not None], default=None)

    def _sample(self, now: float) -> None:
        """Tell what it uses, when that is due; without waiting."""
        usage = self._sampler.take(now)
        if usage is not None and not self._child.exited():
            self.usage = usage
            extra = {**of_usage(usage), **self._fields}
            try:
                self.hub.send_process_status(self.process_id, "running", extra=extra, timeout=0)
            except HubFull:
                self._sampler.put_back()  # a program that rests uses no more, and has no other
            except HubNotRunning:
                pass

    def _close_log(self, log: LogFile) -> None:
        if self._streams:
            log.close(self._returncode)
        else:
            log.discard()

    def _kill(self) -> None:
        """Send SIGKILL to the whole session now, and no other signal after that."""
        self._killed = True
        self.kill_session()

    def _clean_up(self) -> None:
        try:
            if not self._streams:
                self._kill()
            if self._end_requested:
                self._begin_end()
            # Only when we end it: processes that outlive a program's own end are meant to.
            if self._kill_at is not None and not self._child.end_session(self._kill_at):
                logger.warning("%r has ended, but something that it started has not", self)
            self._returncode = self._child.reap()
            self.usage = self._sampler.complete(self._child.usage)
        finally:
            self._ended = True
            self._child.close()

    def _deliver(self, name: str, texts: Texts) -> None:
        if self._log is not None:
            self._log.lines(texts, name)
        for text in texts:
            if self._on_line is not None:
                self._call_on_line(text, name)
        # A history finds messages by their timestamps, so these do not go back.
        texts.not_before(self._latest)
        self._latest = max(self._latest, texts.time)
        sent = 0
        for part in self._pace.parts(texts, self._wait_for_viewers):
            self._send(texts.part(sent, sent + len(part)), name)
            sent += len(part)
        self._watch.touch(time.monotonic())  # meanwhile nothing was read

    def _send(self, texts: Texts, stream: str) -> None:
        while not self._hub_stopped:
            try:
                self.hub.send_process_lines(self.process_id, texts, stream=stream)
                return
            except HubFull:  # again: no line of a process is dropped here
                self._end_when_due()
            except HubNotRunning:
                self._stop_sending()

    def _wait_for_viewers(self) -> None:
        channel = self.hub.process_channel(self.process_id)
        while not self._hub_stopped and not self._killed:
            try:
                if self.hub.wait_for_room(channel, _LOOK):
                    return
            except HubFull:  # again, as in _send
                pass
            except HubNotRunning:
                self._stop_sending()
            self._end_when_due()

    def _sharers(self) -> int:
        return sum(each._paced for each in _streaming.of(self.hub))

    def _stop_sending(self) -> None:
        self._hub_stopped = True
        self._begin_end()

    def _next_due(self) -> float | None:
        if self._killed:
            return None
        return self._watch.due() if self._kill_at is None else self._kill_at

    def _end_when_due(self, *, reading: bool = False) -> None:
        """Begin the program's end when its time is up; send SIGKILL when that is due."""
        now = time.monotonic()
        if self._kill_at is None:
            reason = self._watch.expired(now, reading=reading)
            if reason and self._child.exited():
                self._watch.disarm()
            elif reason:
                self._begin_end(reason)
        elif self._kill_at <= now and not self._killed:
            self._killed = True
            self._child.signal_all(signal.SIGKILL)

    def _seen(self, name: str, data: bytes) -> None:
        if self._log is not None:
            self._log.output(name, data)
        if self._on_output is None:
            return
        try:
            self._on_output(data, name)
        except BaseException:  # noqa: BLE001 - user code, as on_line
            logger.exception("on_output of %r failed and is not called again", self)
            self._on_output = None

    def _call_on_line(self, text: str, name: str) -> None:
        assert self._on_line is not None
        try:
            self._on_line(text, name)
        except BaseException:  # noqa: BLE001 - user code, which may raise SystemExit
            logger.exception("on_line of %r failed and is not called again", self)
            self._on_line = None

    def _send_end(self) -> None:
        if self._streams:
            self._send_exited()
        else:
            self._send_failed()

    def _send_failed(self) -> None:
        error = self._error
        text = str(error.__cause__ or error) if error is not None else ""
        # When HubFull made the start fail, the queue has been waited for already.
        timeout = 0 if isinstance(error, HubFull) else None
        extra = {"error": text or "its start was interrupted", **self._fields}
        try:
            self.hub.send_process_status(self.process_id, "failed", extra=extra, timeout=timeout)
        except WsHubError as refused:  # run_process raises why the start failed
            logger.debug("status `failed` of %s not published: %s", self.process_id, refused)

    def _send_exited(self) -> None:
        code, lost = self._returncode, 0 if self._log is None else self._log.lost
        extra = {**of_end(code, self.reason, self.usage, lost), **self._fields}
        while not self._hub_stopped:
            try:
                self.hub.send_process_status(self.process_id, "exited", code, extra=extra)
                return
            except HubFull:
                continue
            except HubNotRunning:
                return


_streaming: Running[Process] = Running()


def find_process(hub: StreamingHub, process_id: str) -> Process | None:
    """Return the program that a hub streams under a process id; None for none.

    Threads: any; does not wait.
    """
    return _streaming.get(hub, process_id)
