"""What clients ask of the programs that run here: input, the size of a terminal, an end.

`HubConfig.input_authoriser` says who may; nobody, where there is none. One client at a time
holds the input of a program and writes to it, the others watch: what is done is an event in
the channel of the program, before it is done. Programs of other processes are reached by
`shared_control`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..connection.connection import Connection
from ..errors import ConfigError, HubError, HubFull, HubNotRunning, excerpt
from ..mask.stream import StreamMask
from ..process.process import Process
from ..process.stdin import InputClosed, InputTimeout
from ..protocol.message import MessageType
from ..protocol.names import process_channel
from ..protocol.requests import Control
from ..reentrant import Lock

__all__ = ["Asker", "Elsewhere", "Programs"]

_WRITE_WITHIN = 1.0  # seconds: meanwhile nothing else of that client is read
_LOOKS = 20  # at the terminal, while there is no room to tell of an input
_LOOK_EVERY = 0.05  # seconds
_TELL_WITHIN = 1.0  # seconds in which what a client of another process does is told
_REASONS = {"stop": "stopped", "kill": "killed"}  # in the exit status


class Log(Protocol):
    """Publishes an event in the channel of a program."""

    def __call__(self, event: str, data: Any, *, channel: str, timeout: float | None) -> None:
        """Raise HubFull and HubNotRunning, when `timeout` seconds are over (None: as usual)."""


@dataclass(frozen=True, slots=True)
class Asker:
    """A client that asks for something, wherever it is connected.

    Args:
        connection: the number of its connection.
        user_id: whose it is.
        source: the name on the backplane of the process that it is connected to; "" for this one.
        logged: whether the settings there allow that what it writes is told.
    """

    connection: int
    user_id: str | None
    source: str = ""
    logged: bool = field(default=True, compare=False)


class Elsewhere(Protocol):
    """The programs of other processes; see `shared_control`."""

    def carry_out(self, asker: Asker, request: Control) -> Any:
        """Have another process do what a client asks for; return the data of the answer."""

    def left(self, asker: Asker) -> None:
        """Note that a client has left."""


@dataclass(frozen=True, slots=True)
class _Hold:
    process: Process
    asker: Asker


class Programs:
    """Who holds the input of which program, and what is done for them.

    Args:
        find: returns the program of a process id that runs here, or None.
        log: publishes an event.
        logs_input: whether what is written is in the event, where the program shows it.
    """

    def __init__(self, find: Callable[[str], Process | None], log: Log, logs_input: bool) -> None:
        self._find = find
        self._log = log
        self._logs_input = logs_input
        # guards: _holds. Nothing is taken under it.
        self._lock = Lock()
        self._holds: dict[str, _Hold] = {}
        self.elsewhere: Elsewhere | None = None  # set before a client can ask

    # --- reader threads --------------------------------------------------------------------

    def carry_out(self, connection: Connection, request: Control) -> object:
        """Do what a client, that may, asks for; return the data of the answer.

        Raises HubError, HubFull and HubNotRunning.

        Threads: the client's reader; waits as publishing does, and for a program that does not
        read its input, or for the process that runs it.
        """
        asker = self._asker(connection)
        if self.elsewhere is not None and not self.runs(request.process_id):
            return self.elsewhere.carry_out(asker, request)
        return self.do(asker, request)

    def describe(self, connection: Connection, request: Control, actions: list[str]) -> object:
        """Return what a client is told about a program that it may control so.

        Other processes are asked only where it may do something.
        """
        nothing = {"input": False, "terminal": False, "held": False, "holder": None}
        if actions or self.runs(request.process_id):
            with contextlib.suppress(HubError):
                found: Any = self.carry_out(connection, request)
                return {"actions": actions, **found}
        return {"actions": [], **nothing}

    def left(self, connection: Connection) -> None:
        """Release what a client that has left holds.

        Threads: the client's reader; does not wait.
        """
        asker = self._asker(connection)
        self.release(lambda each: each == asker)
        if self.elsewhere is not None:
            self.elsewhere.left(asker)

    def _asker(self, connection: Connection) -> Asker:
        return Asker(connection.id, connection.user_id, logged=self._logs_input)

    # --- any thread ------------------------------------------------------------------------

    def runs(self, process_id: str) -> bool:
        """Return whether a program runs in this process."""
        return self._find(process_id) is not None

    def none_runs(self) -> HubError:
        """Return what to raise where a program runs nowhere."""
        return HubError(
            "not_found",
            "Control: no such program runs: it has ended, or a process runs it that no backplane "
            "connects to this one",
        )

    def do(self, asker: Asker, request: Control) -> object:
        """Do to a program of this process what a client asks for; return the data of the answer.

        Raises HubError, HubFull and HubNotRunning.

        Threads: any; waits as publishing does (for a client of another process a second), and a
        second for a program that does not read its input.
        """
        process = self._find(request.process_id)
        if process is None:
            raise self.none_runs()
        if request.type == MessageType.PROCESS_CONTROL:
            return self._describe(asker, process)
        if request.type == MessageType.PROCESS_HOLD:
            return self._hold(asker, request.process_id, process, bool(request.data))
        if request.type == MessageType.PROCESS_SIGNAL:
            return self._signal(asker, process, str(request.data))
        if self._holder(request.process_id, process) != asker:
            raise HubError("forbidden", f"Control: {self._held_by(request.process_id, process)}")
        if request.type == MessageType.PROCESS_RESIZE:
            return self._resize(process, request.data)
        return self._write(asker, process, request.data)

    def release(self, is_released: Callable[[Asker], bool]) -> None:
        """Release what some clients hold; does not wait."""
        with self._lock:
            ended = [(each, hold.asker) for each, hold in self._holds.items()]
            ended = [(each, asker) for each, asker in ended if is_released(asker)]
            for process_id, _ in ended:
                del self._holds[process_id]
        for process_id, asker in ended:
            self._tell_of_hold(asker, process_id, False)

    def _describe(self, asker: Asker, process: Process) -> object:
        holder = self._holder(process.process_id, process)
        return {
            "input": process.takes_input,
            "terminal": process.has_terminal,
            "held": holder == asker,
            "holder": None if holder is None else _who(holder),
        }

    def _hold(self, asker: Asker, process_id: str, process: Process, takes: bool) -> object:
        if takes and not process.takes_input:
            raise HubError("not_found", "Control: the program was started without input")
        with self._lock:
            holder = self._holder(process_id, process)
            if takes and holder is None:
                self._forget_ended_locked()
                self._holds[process_id] = _Hold(process, asker)
            elif not takes and holder == asker:
                del self._holds[process_id]
            elif takes and holder != asker:
                raise HubError("forbidden", f"Control: {self._held_by(process_id, process)}")
            else:
                return {"held": takes}  # as it was
        self._tell_of_hold(asker, process_id, takes)
        return {"held": takes}

    def _forget_ended_locked(self) -> None:
        """Let go of the programs that have ended: their clients may stay for long."""
        assert self._lock.locked()
        self._holds = {each: hold for each, hold in self._holds.items() if hold.process.running}

    def _tell_of_hold(self, asker: Asker, process_id: str, held: bool) -> None:
        # It is held, or released, all the same.
        with contextlib.suppress(HubFull, HubNotRunning):
            self._tell("process_hold", asker, process_id, {"held": held}, timeout=0)

    def _holder(self, process_id: str, process: Process) -> Asker | None:
        hold = self._holds.get(process_id)
        return hold.asker if hold is not None and hold.process is process else None

    def _held_by(self, process_id: str, process: Process) -> str:
        holder = self._holder(process_id, process)
        if holder is None:
            return "take the hold first (process_hold)"
        return f"the input is held by {excerpt(holder.user_id or 'another client')}"

    def _write(self, asker: Asker, process: Process, data: object) -> object:
        self._tell_input(asker, process, None if data is None else str(data))
        try:
            if data is None:
                process.close_stdin(_WRITE_WITHIN)
            else:
                process.write(str(data), _WRITE_WITHIN)
        except InputTimeout as error:
            text = (
                f"Control: the program does not read its input; {error.written} bytes are written"
            )
            raise HubError("limit", text) from error
        except InputClosed as error:
            raise HubError("not_found", "Control: the input of the program is closed") from error
        return None

    def _tell_input(self, asker: Asker, process: Process, text: str | None) -> None:
        """Tell of an input, or of its end.

        What could be the beginning of a secret is told with a later input that shows it is none.
        """
        for left in reversed(range(_LOOKS)):
            told: dict[str, object] = {"end": True} if text is None else {}
            typed = StreamMask(process.masks)  # behind what is not told it begins anew
            # The terminal may not show it any more, after a wait.
            if self._logs_input and asker.logged and process.shows_input:
                typed = (process.typed or typed).copy()
                shown = typed.end("") if text is None else typed.add(text)
                if shown or text is not None:
                    told["text"] = shown
            try:
                self._tell("process_input", asker, process.process_id, told, _LOOK_EVERY)
            except HubFull:
                if not left:
                    raise
            else:
                process.typed = typed
                return

    def _resize(self, process: Process, data: object) -> object:
        assert isinstance(data, tuple)
        try:
            process.resize(*data)
        except ConfigError as error:
            raise HubError("not_found", "Control: the program has no terminal") from error
        return None

    def _signal(self, asker: Asker, process: Process, signal: str) -> object:
        self._tell("process_signal", asker, process.process_id, {"signal": signal})
        process.stop(_REASONS[signal], kill=signal == "kill")
        return None

    def _tell(
        self,
        event: str,
        asker: Asker,
        process_id: str,
        data: dict[str, object],
        timeout: float | None = None,
    ) -> None:
        who = _who(asker)
        if asker.source and timeout is None:
            timeout = _TELL_WITHIN
        self._log(event, {**who, **data}, channel=process_channel(process_id), timeout=timeout)


def _who(asker: Asker) -> dict[str, object]:
    return {"user": asker.user_id, "connection": asker.connection}
