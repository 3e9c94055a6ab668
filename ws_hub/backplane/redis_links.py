"""The connections of one purpose to a server: one for each of its nodes that is asked."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..reentrant import Lock
from .redis_address import Node
from .redis_server import RedisServer, Session

__all__ = ["Links", "Sessions"]

T = TypeVar("T")
_PATIENCE = 2.0  # seconds in which a server that does not answer is asked again
_SETTLING = 30.0  # the same, where an answer was lost
_PAUSE = 0.1  # seconds between two attempts


class Sessions:
    """One connection to each node.

    Args:
        server: the server.

    Threads: one at a time.
    """

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._each: dict[Node | None, Session] = {}

    def get(self, node: Node | None, shard: int) -> Session:
        """Return the connection to the node of a shard, which is made if need be.

        What is sent on one that has ended may be lost: it is made anew, and so is one whose node
        serves its shard no more.
        """
        for key, each in list(self._each.items()):
            if not each.is_current or (key == node and each.has_ended()):
                self.drop(key)
        if node not in self._each:
            self._each[node] = self._server.session(shard)
        return self._each[node]

    def drop(self, node: Node | None) -> None:
        """Close the connection to a node; idempotent."""
        session = self._each.pop(node, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """Close all; idempotent."""
        for node in list(self._each):
            self.drop(node)


class Links:
    """Connections that are made when they are needed, and made anew after a fault.

    Args:
        server: the server.
        begin: what is done with a connection before its first use for a shard.

    Threads: any; one at a time has the connections.
    """

    def __init__(
        self, server: RedisServer, begin: Callable[[Session, int], object] | None = None
    ) -> None:
        self._server = server
        self._begin = begin
        # guards: the connections, for one call at a time, and what follows. Nothing is taken
        # under it but the lock of a cluster's finder.
        self._lock = Lock()
        self._sessions = Sessions(server)
        # The shards that each of these began for.
        self._begun: weakref.WeakKeyDictionary[Session, set[int]] = weakref.WeakKeyDictionary()
        self._has_failed = False  # the last call
        self._is_busy = False  # a call is under way
        self._is_sent = False  # what is not to be taken for undone, in this call
        self._ends = math.inf  # until when a call may wait, in monotonic seconds; by any thread

    def hurry(self, seconds: float) -> None:
        """Have no call wait for what is away longer than so many seconds from now."""
        self._ends = time.monotonic() + seconds

    def note_sent(self) -> None:
        """Have the call under way go on for longer where it gets no answer: it may be done.

        Threads: the one of the call, in its function.
        """
        self._is_sent = True

    def run(self, work: Callable[[Session], T], shard: int = 0, *, patient: bool = True) -> T:
        """Return what a function returns for a connection to the node of a shard.

        It is called again and again for a moment where that fails, unless it has failed before
        or is not `patient`. Raises `RedisServer.failures`.
        """
        with self._lock:
            if self._is_busy:  # interrupted, in the middle of its conversation
                return self._run_apart(work, shard)
            self._is_busy = True
            try:
                return self._run_locked(work, shard, patient and not self._has_failed)
            finally:
                self._is_busy = False

    def ask_each(self, words_of: Callable[[int], Sequence[str]]) -> list[Any]:
        """Return the answers to a command in each shard, asked in one go where a node has more.

        Raises as `run` does.
        """
        answers: dict[int, Any] = {}
        while missing := [each for each in range(self._server.shards) if each not in answers]:

            def ask(session: Session, missing: list[int] = missing) -> None:
                node = self._server.node_of(missing[0])
                group = [each for each in missing if self._server.node_of(each) == node]
                found = session.all([words_of(each) for each in group])
                answers.update(zip(group, found, strict=True))

            self.run(ask, missing[0])
        return [answers[each] for each in range(self._server.shards)]

    def close(self) -> None:
        """Close all connections; idempotent."""
        with self._lock:
            self._sessions.close()

    def _run_locked(self, work: Callable[[Session], T], shard: int, is_patient: bool) -> T:
        assert self._lock.locked()
        began, self._is_sent = time.monotonic(), False
        until = began + _PATIENCE if is_patient else 0.0
        while True:
            node: Node | None = None
            try:
                node = self._server.node_of(shard)
                found = work(self._session_locked(node, shard))
            except self._server.failures as error:
                self._sessions.drop(node)  # of a replica, another may be the server next
                if self._server.is_elsewhere(error):
                    self._server.finder.failed(node)
                elif isinstance(error, self._server.refusals):
                    until = 0.0
                elif self._is_sent:
                    until = began + _SETTLING
                if time.monotonic() >= min(until, self._ends):
                    self._has_failed = True
                    raise
                threading.Event().wait(_PAUSE)
            except BaseException:
                self._sessions.drop(node)  # an answer may be left in it
                raise
            else:
                self._has_failed = False
                return found

    def _run_apart(self, work: Callable[[Session], T], shard: int) -> T:
        session = self._server.session(shard)
        try:
            if self._begin is not None:
                self._begin(session, shard)
            return work(session)
        finally:
            session.close()

    def _session_locked(self, node: Node | None, shard: int) -> Session:
        assert self._lock.locked()
        session = self._sessions.get(node, shard)
        begun = self._begun.setdefault(session, set())
        if shard not in begun:
            if self._begin is not None:
                self._begin(session, shard)
            begun.add(shard)
        return session
