"""A call on a thread of its own, for callers that each wait no longer than they are told."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from .. import threads
from ..errors import WsHubError
from ..reentrant import Event

__all__ = ["Beginning"]

T = TypeVar("T")


class Beginning(Generic[T]):
    """A function that is called once, at once.

    Args:
        name: of the thread.
        function: what is called.

    Attributes:
        at: when it was called, in monotonic seconds.

    Raises RuntimeError when the system has no more threads.

    Threads: any.
    """

    def __init__(self, name: str, function: Callable[[], T]) -> None:
        self.at = time.monotonic()
        # guards: the two below, which its thread writes before it is set.
        self._ended = Event()
        self._result: list[T] = []
        self._error: BaseException | None = None
        # Not an argument of the thread, which would keep what it belongs to until its own end.
        self._function: Callable[[], T] | None = function
        threads.start(name, self._run)

    def _run(self) -> None:
        function, self._function = self._function, None
        assert function is not None
        try:
            self._result.append(function())
        except WsHubError as error:
            self._error = error.with_traceback(None)  # its text says all, and it may be kept
        except BaseException as error:  # noqa: BLE001 - the callers raise it
            self._error = error
        finally:
            del function
            self._ended.set()

    def result(self, timeout: float) -> T | None:
        """Return what the function has; None while it runs. Raises what it has raised.

        Threads: any; waits at most `timeout` seconds.
        """
        if not self._ended.wait(timeout):
            return None
        if self._error is not None:
            raise copy.copy(self._error) from self._error.__cause__
        return self._result[0]
