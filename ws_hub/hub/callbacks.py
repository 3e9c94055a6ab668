"""Guarded calls: of user functions, and of pieces of the hub's own work.

An exception is logged and counted, and its caller goes on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from ..access.contexts import Context, context_of
from ..errors import HubNotRunning, excerpt
from ..log import get_logger
from .stats import Counters

__all__ = ["Callbacks", "guarded"]

logger = get_logger(__name__)


class Held(Protocol):
    """What would be held up by a function that waits."""

    def before_call(self) -> None:
        """Go on with another thread, if the calling one may be held up."""

    def after_call(self, seconds: float) -> None:
        """Take note of how long a call took."""


class Callbacks:
    """Calls user functions, on any thread.

    Args:
        counters: count each that raised, as `callback_errors`.
        context: returns the context of calls that are for no client, or whose handshake has
            none; see `access.contexts`.
        ends: returns whether the hub takes no more messages, because it ends.
        held: the threads that call those for clients, or None.
    """

    def __init__(
        self,
        counters: Counters,
        context: Callable[[], Context] = contextlib.nullcontext,
        ends: Callable[[], bool] = lambda: False,
        held: Held | None = None,
    ) -> None:
        self._counters = counters
        self._context = context
        self._ends = ends
        self._held = held
        self._inside = threading.local()  # .depth: calls the thread is in; .connections: of these
        # guards: nothing; it is changed and copied by single calls. Those that run now.
        self._running: dict[object, tuple[Callable[..., Any], Any]] = {}

    @property
    def inside(self) -> bool:
        """Whether the calling thread is in one of them."""
        return getattr(self._inside, "depth", 0) > 0

    @property
    def connection(self) -> Any:
        """The connection that the calling thread is in one of them for; None for none."""
        connections = getattr(self._inside, "connections", ())
        return connections[-1] if connections else None

    def is_for(self, connection: object) -> bool:
        """Return whether the calling thread is in one of them for a connection."""
        return any(each is connection for each in getattr(self._inside, "connections", ()))

    def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        connection: Any = None,
        default: Any = None,
        bare: bool = False,
        passes: type[Exception] | tuple[()] = (),
    ) -> Any:
        """Call a user's function; what it raises is logged and counted, and is `default`.

        `connection` is the one that the callback is for; its `last_error` is set. It runs in
        the context of a framework, unless `bare`. An exception of the kind `passes` is an
        answer of the function, and raised again.
        """
        key = object()
        depth = getattr(self._inside, "depth", 0)
        before = getattr(self._inside, "connections", ())
        self._inside.depth = depth + 1
        self._inside.connections = (*before, connection)
        held, began = None if connection is None or depth else self._held, 0.0
        if held is not None:
            held.before_call()
            began = time.monotonic()
        try:
            self._running[key] = function, connection
            if bare:
                return function(*args)
            environ = getattr(connection, "environ", None)
            with self._context() if environ is None else context_of(environ):
                return function(*args)
        except BaseException as error:  # user code: the hub goes on
            if isinstance(error, passes):
                raise
            if isinstance(error, HubNotRunning) and self._ends():
                # No fault of the function: clients are gone when the hub is, and it tells others.
                logger.info("callback %s: %s", excerpt(function), error)
                return default
            self._counters.add("callback_errors")
            if connection is not None:
                connection.last_error = excerpt(error)
            logger.exception("callback %s failed, client %r", excerpt(function), connection)
            return default
        finally:
            self._inside.depth = depth
            self._inside.connections = before
            self._running.pop(key, None)
            if held is not None:
                held.after_call(time.monotonic() - began)

    def running(self) -> list[tuple[str, Any]]:
        """Return which functions run now, each with the connection that it is for, or None."""
        return [(_name(function), each) for function, each in list(self._running.values())]


def guarded(
    counters: Counters, function: Callable[..., Any], *args: Any, default: Any = None
) -> Any:
    """Call something of ours; what it raises is logged and counted, and is `default`.

    For each item of a loop that all clients live by.
    """
    try:
        return function(*args)
    except Exception:  # noqa: BLE001 - the top of a thread: the other items go on
        counters.add("internal_errors")
        logger.exception("the hub met an error of its own")
        return default


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", "")
    return f"{getattr(function, '__module__', '')}.{name}" if name else excerpt(function)
