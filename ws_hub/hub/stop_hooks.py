"""Functions to call when the hub stops, while it still delivers: each once."""

from __future__ import annotations

from collections.abc import Callable

from ..reentrant import Lock

__all__ = ["StopHooks"]


class StopHooks:
    """Functions to call once, in the order in which they were added."""

    def __init__(self) -> None:
        # guards: _functions. Taken after the hub's lock; nothing is taken under it.
        self._lock = Lock()
        self._functions: dict[object, Callable[[], object]] = {}

    def add(self, function: Callable[[], object]) -> Callable[[], None]:
        """Keep a function; return what takes it back."""
        key = object()
        with self._lock:
            self._functions[key] = function

        def cancel() -> None:
            with self._lock:
                self._functions.pop(key, None)

        return cancel

    def run(self, call: Callable[[Callable[[], object]], object]) -> None:
        """Have each function called by `call`, without a lock held."""
        with self._lock:
            functions, self._functions = self._functions, {}
        for function in functions.values():
            call(function)
