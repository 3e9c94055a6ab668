"""What clients ask of the programs that run here: input, the size of a terminal, an end.

`HubConfig.input_authoriser` says who may; nobody, where there is none. One client at a time
holds the input of a program and writes to it, the others watch: what is done is an event in
the channel of the program, before it is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
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

__all__ = ["Programs"]

_WRITE_WITHIN = 1.0  # seconds: meanwhile nothing else of that client is read
_LOOKS = 20  # at the terminal, while there is no room to tell of an input
_LOOK_EVERY = 0.05  # seconds
_REASONS = {"stop": "stopped", "kill": "killed"}  # in the exit status


class Log(Protocol):
    """Publishes an event in the channel of a program."""

    def __call__(self, event: str, data: Any, *, channel: str, timeout: float | None) -> None:
        """Raise HubFull and HubNotRunning, when `timeout` seconds are over (None: as usual)."""


@dataclass(frozen=True, slots=True)
class _Hold:
    process: Process
    connection: Connection


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

    # --- reader threads --------------------------------------------------------------------

    def carry_out(self, connection: Connection, request: Control) -> object:
        """Do what a client, that may, asks for; return the data of the answer.

        Raises HubError, HubFull and HubNotRunning.

        Threads: the client's reader; waits as publishing does, and for a program that does not
        read its input.
        """
        process = self._find(request.process_id)
        if process is None:
            raise HubError(
                "not_found",
                "Control: no such program runs in this process of the server; with several, each "
                "controls the programs that it has started",
            )
        if request.type == MessageType.PROCESS_HOLD:
            return self._hold(connection, request.process_id, process, bool(request.data))
        if request.type == MessageType.PROCESS_SIGNAL:
            return self._signal(connection, process, str(request.data))
        if self._holder(request.process_id, process) is not connection:
            raise HubError("forbidden", f"Control: {self._held_by(request.process_id, process)}")
        if request.type == MessageType.PROCESS_RESIZE:
            return self._resize(process, request.data)
        return self._write(connection, process, request.data)

    def describe(self, connection: Connection, process_id: str, actions: list[str]) -> object:
        """Return what a client is told about a program that it may control so."""
        process = self._find(process_id)
        holder = None if process is None else self._holder(process_id, process)
        return {
            "actions": actions if process is not None else [],
            "input": process is not None and process.takes_input,
            "terminal": process is not None and process.has_terminal,
            "held": holder is connection,
            "holder": None if holder is None else _who(holder),
        }

    def left(self, connection: Connection) -> None:
        """Release what a client that has left holds.

        Threads: the client's reader; does not wait.
        """
        with self._lock:
            held = [each for each, hold in self._holds.items() if hold.connection is connection]
            for process_id in held:
                del self._holds[process_id]
        for process_id in held:
            self._tell_of_hold(connection, process_id, False)

    def _hold(
        self, connection: Connection, process_id: str, process: Process, takes: bool
    ) -> object:
        if takes and not process.takes_input:
            raise HubError("not_found", "Control: the program was started without input")
        with self._lock:
            holder = self._holder(process_id, process)
            if takes and holder is None:
                self._forget_ended_locked()
                self._holds[process_id] = _Hold(process, connection)
            elif not takes and holder is connection:
                del self._holds[process_id]
            elif takes and holder is not connection:
                raise HubError("forbidden", f"Control: {self._held_by(process_id, process)}")
            else:
                return {"held": takes}  # as it was
        self._tell_of_hold(connection, process_id, takes)
        return {"held": takes}

    def _forget_ended_locked(self) -> None:
        """Let go of the programs that have ended: their clients may stay for long."""
        assert self._lock.locked()
        self._holds = {each: hold for each, hold in self._holds.items() if hold.process.running}

    def _tell_of_hold(self, connection: Connection, process_id: str, held: bool) -> None:
        # It is held, or released, all the same.
        with contextlib.suppress(HubFull, HubNotRunning):
            self._tell("process_hold", connection, process_id, {"held": held}, timeout=0)

    def _holder(self, process_id: str, process: Process) -> Connection | None:
        hold = self._holds.get(process_id)
        return hold.connection if hold is not None and hold.process is process else None

    def _held_by(self, process_id: str, process: Process) -> str:
        holder = self._holder(process_id, process)
        if holder is None:
            return "take the hold first (process_hold)"
        return f"the input is held by {excerpt(holder.user_id or 'another client')}"

    def _write(self, connection: Connection, process: Process, data: object) -> object:
        self._tell_input(connection, process, None if data is None else str(data))
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

    def _tell_input(self, connection: Connection, process: Process, text: str | None) -> None:
        """Tell of an input, or of its end.

        What could be the beginning of a secret is told with a later input that shows it is none.
        """
        for left in reversed(range(_LOOKS)):
            told: dict[str, object] = {"end": True} if text is None else {}
            typed = StreamMask(process.masks)  # behind what is not told it begins anew
            if self._logs_input and process.shows_input:  # it may not any more, after a wait
                typed = (process.typed or typed).copy()
                shown = typed.end("") if text is None else typed.add(text)
                if shown or text is not None:
                    told["text"] = shown
            try:
                self._tell("process_input", connection, process.process_id, told, _LOOK_EVERY)
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

    def _signal(self, connection: Connection, process: Process, signal: str) -> object:
        self._tell("process_signal", connection, process.process_id, {"signal": signal})
        process.stop(_REASONS[signal], kill=signal == "kill")
        return None

    def _tell(
        self,
        event: str,
        connection: Connection,
        process_id: str,
        data: dict[str, object],
        timeout: float | None = None,
    ) -> None:
        who = _who(connection)
        self._log(event, {**who, **data}, channel=process_channel(process_id), timeout=timeout)


def _who(connection: Connection) -> dict[str, object]:
    return {"user": connection.user_id, "connection": connection.id}
