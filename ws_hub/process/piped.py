"""Streams what is read from a descriptor, such as the standard input, like a program's output.

The program at the other end is not ours: it is neither started nor signalled here.
"""

from __future__ import annotations

import os
import signal

from .. import threads
from ..protocol.names import AnyId, id_text
from .log_file import ProcessLog, as_log
from .process import OnLine, OnOutput, Process, StreamingHub, begin
from .spawn import Child

__all__ = ["Piped", "stream_input"]


def stream_input(
    hub: StreamingHub,
    fd: int,
    process_id: AnyId,
    *,
    on_line: OnLine | None = None,
    on_output: OnOutput | None = None,
    log: ProcessLog | str | os.PathLike[str] | bool | None = None,
) -> Process:
    """Stream what a descriptor yields to the channel of a process id, until its end.

    The channel gets what that of `run_process` gets; `exited` with 0 at the end of the input.
    A signal to the process that is returned is noted as how it has ended, `close` and SIGKILL
    end the reading. The descriptor stays open: a duplicate of it is read.

    `log` is as of `run_process`. Raises ProcessAlreadyRunning, InvalidName, HubNotRunning, HubFull,
    and with a log ConfigError and ProcessStartError.

    Threads: any; does not wait for the end.
    """
    name = id_text(process_id, "process id")
    hub.process_channel(name)  # raises InvalidName
    process = Process(hub, name, on_line, on_output=on_output)
    process.log = None if log is None else as_log(log, name, hub.config.logs)
    return begin(process, lambda: Piped(os.dup(fd)))


class Piped(Child):
    """An input in the place of a program: it has exited at its end.

    Args:
        fd: what is read; closed at the end.
    """

    def __init__(self, fd: int) -> None:
        self._renew_lock()  # guards: _number, _over, and the descriptor that is written to
        self._over = False  # its descriptors are closed; or a forked child
        self._number = 0  # the signal that it was sent
        self._asked = False  # it is not read to its end
        self.pid = os.getpid()
        self.size = None
        self.streams = {"stdout": fd}
        try:
            self._woken, self._wake = os.pipe()
        except OSError:  # no descriptors
            os.close(fd)
            raise
        threads.forget_after_fork(self)

    def forget(self) -> None:
        """Leave the input to the parent, in a forked child.

        Threads: the only one of the child, right after the fork.
        """
        self._renew_lock()
        self.close()

    @property
    def exit_fd(self) -> int:
        """A descriptor that becomes readable when the reading is to end."""
        return self._woken

    def signal(self, number: int) -> None:
        """Note a signal; SIGKILL ends the reading.

        The terminal has sent that of Ctrl-C to the program at the other end as well, of which
        the last output is yet to be read.

        Threads: any; does not wait.
        """
        with self._lock:
            self._number = self._number or number
            if number == signal.SIGKILL:
                self._end_locked()

    def signal_all(self, number: int) -> None:
        """End the reading.

        Threads: any; does not wait.
        """
        with self._lock:
            self._number = self._number or number
            self._end_locked()

    def _end_locked(self) -> None:
        assert self._lock.locked()
        if not (self._asked or self._over):
            self._asked = True
            os.write(self._wake, b"\0")

    def end_session(self, until: float) -> bool:
        """Return True: nothing was started."""
        return True

    def exited(self) -> bool:
        """Return whether the input is at its end, or not read any more."""
        return self._asked or not self.streams

    def reap(self) -> int:
        """Return 0, or minus the signal that was sent before the end."""
        return -self._number

    def close(self) -> None:
        """Close every descriptor."""
        for name in list(self.streams):
            self.close_stream(name)
        with self._lock:
            if not self._over:
                self._over = True
                os.close(self._woken)
                os.close(self._wake)
