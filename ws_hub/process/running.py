"""The programs that are being streamed, by hub and process id."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from .. import threads
from ..errors import ProcessAlreadyRunning

__all__ = ["Running", "Streamed"]


class Streamed(Protocol):
    """What is known of a program here."""

    @property
    def hub(self) -> object:
        """The hub that it is streamed to."""

    @property
    def process_id(self) -> str:
        """Its process id."""


class _Reserved:
    """Stands for a program while it starts."""


Program = TypeVar("Program", bound=Streamed)


class Running(Generic[Program]):
    """The programs that are being streamed, by hub and process id.

    Without a lock: each change is a single call of C. A signal handler that starts a
    program waits for the streaming thread; it may have interrupted a thread in here, whose
    lock the streaming thread would wait for.
    """

    def __init__(self) -> None:
        self.forget()
        threads.forget_after_fork(self)

    def forget(self) -> None:
        """Become empty, in a forked child."""
        self._programs: dict[tuple[int, str], Program | _Reserved] = {}

    def check(self, hub: object, process_id: str) -> None:
        """Raise ProcessAlreadyRunning when a process id is in use on a hub."""
        if (id(hub), process_id) in self._programs:
            raise ProcessAlreadyRunning(process_id)

    def reserve(self, hub: object, process_id: str) -> None:
        """Reserve a process id on a hub; raises ProcessAlreadyRunning when it is in use."""
        mark = _Reserved()
        if self._programs.setdefault((id(hub), process_id), mark) is not mark:
            raise ProcessAlreadyRunning(process_id)

    def add(self, program: Program) -> None:
        """Replace the mark of a reserved id: the program has a child that can be ended."""
        self._programs[id(program.hub), program.process_id] = program

    def release(self, hub: object, process_id: str) -> None:
        """Make a process id free again."""
        self._programs.pop((id(hub), process_id), None)

    def get(self, hub: object, process_id: str) -> Program | None:
        """Return the program of an id, if it has a child."""
        found = self._programs.get((id(hub), process_id))
        return None if isinstance(found, _Reserved) else found

    def of(self, hub: object) -> list[Program]:
        """Return the programs of a hub that have a child."""
        found = list(self._programs.values())
        return [each for each in found if not isinstance(each, _Reserved) and each.hub is hub]
