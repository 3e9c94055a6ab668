"""Hears the others over Redis: the thread that reads the subscribed connection.

Rules of this file:

- It reads on whatever the receiver does: a server cuts a subscriber that is far behind. What
  finds no room with the receiver waits here, within a bound.
- A connection on which nothing comes for some seconds, no answer to a ping either, has ended.
- After a connection has ended nobody knows what was missed: the receiver looks at its stores,
  and the numbers tell the rest.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .. import threads
from ..errors import excerpt
from ..log import get_logger
from ..reentrant import Event, nested
from .bus import ALWAYS, Notice, NoticeKind
from .envelopes import BYE, Envelope, opened, opening
from .go_bridge import GoBridge
from .peers import MAX_WAITING_BYTES, Counts
from .reach import Reach, retry_wait
from .reception import Reception
from .redis_address import Node
from .redis_server import Matched, RedisServer, Subscription, ready

__all__ = ["RedisListener"]

logger = get_logger(__name__)

_PING_EVERY, _SILENCE = 2.0, 5.0  # seconds
_GONE = 10.0  # seconds without a sign of life of another process
_LOOK_EVERY = 5.0  # seconds between two looks for what such processes have left
_OFFER_EVERY = 0.02  # seconds after which a notice that found no room is offered again
_POLL = 0.5  # seconds of one wait
_STABLE = 5.0  # seconds of a connection after which the next retry is as the first
_GRACE = 1.0  # seconds for the thread to end after its time is over
_AFTER_FAULT = 0.1  # seconds of rest after an exception that nothing here expects
_MOST_SOURCES = 10_000  # anybody may make up names
_MOST_WARNED = 10  # bodies in one life; the others are counted
_NOTICE_BYTES = 200  # of memory, about, beside its texts
_KEPT = Notice(NoticeKind.KEPT)
_PART = "subscribe"  # of `Reach`


@dataclass(slots=True)
class _Source:
    """Another process.

    Args:
        seen: when it was last heard, in monotonic seconds.
        listens: whether it hears this one.
        numbers: of its last counted notice in each shard.
        ended: the shards in which it has said that it ends.
    """

    seen: float
    listens: bool
    numbers: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)


class RedisListener:
    """What one life of a backplane hears.

    Args:
        server: the server.
        own: the names on the bus that are this process's.
        reception: gets the notices of others, on the thread.
        reach: what it reports to.
        counts: what to count in.
        greet: says that this process is there, and asks who else is.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        server: RedisServer,
        own: tuple[str, ...],
        reception: Reception,
        reach: Reach,
        counts: Counts,
        *,
        greet: Callable[[bool], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._own = tuple(opening(name) for name in own)
        self._go = GoBridge(server.prefix, own[0], counts) if server.go else None
        self._reception = reception
        self._reach = reach
        self._counts = counts
        self._greet = greet
        self._clock = clock
        self._closed = Event()
        self._thread: threading.Thread | None = None
        # The thread's own.
        self._subscriptions: list[Subscription] = []
        self._sources: dict[str, _Source] = {}
        # The last numbers of those that were not heard for long, oldest first: one that was cut
        # off comes back, and what it told meanwhile is lost.
        self._silent: OrderedDict[str, dict[int, int]] = OrderedDict()
        # Notices and their senders that found no room with the receiver.
        self._waiting: deque[tuple[Notice, str]] = deque()
        self._waiting_bytes = 0
        self._next_offer = self._next_look = 0.0
        # When all connections were there, anything came last on any, and the next are made.
        self._connected = self._heard = self._next_try = 0.0
        self._attempt = self._warned = 0
        self._has_failed = False  # ever

    # --- any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threads.start("ws-hub:bus", self._run)

    def peers(self) -> int:
        """Return the number of other processes that are reached."""
        return len(self.others())

    def others(self) -> frozenset[str]:
        """Return the names of the other processes that are reached."""
        # Copied by a single call: the thread changes it.
        sources = list(self._sources.items()) if self._reach.is_up else []
        return frozenset([name for name, each in sources if each.listens])

    def finish(self, timeout: float) -> None:
        """End the thread, which waits for an answer for some seconds at most."""
        self._closed.set()
        if not nested():
            threads.join(self._thread, max(timeout, 0.0) + _GRACE)

    def forget(self) -> None:
        """Close the child's copy of the connection, in a forked child."""
        for each in self._subscriptions:
            each.close()

    # --- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                try:
                    self._turn()
                except Exception as error:  # noqa: BLE001 - the top of a thread
                    logger.exception("the backplane's listener failed")
                    for each in list(self._subscriptions):
                        self._lose(each, error)
                    self._closed.wait(_AFTER_FAULT)
        finally:
            for each in self._subscriptions:
                each.close()

    def _turn(self) -> None:
        """Connect to what is missing, wait for something to come, and hand it on."""
        missing = self._missing()
        if missing and self._clock() >= self._next_try:
            self._leave_nodes_of(missing)
            self._connect(self._missing())
        if self._subscriptions:
            found = ready(self._subscriptions, self._patience())
        else:
            found = []
            self._closed.wait(self._patience())
        for each in found:
            self._read(each)
        now = self._clock()
        for each in list(self._subscriptions):
            self._attend_to(each, now)
        self._offer_waiting()
        if now >= self._next_look and not self._missing():
            self._next_look = now + _LOOK_EVERY
            self._forget_gone(now)
            self._server.finder.look()

    def _missing(self) -> list[int]:
        """Return the shards that are not heard."""
        heard = {shard for each in self._subscriptions for shard in each.shards}
        return [shard for shard in range(self._server.shards) if shard not in heard]

    def _leave_nodes_of(self, missing: list[int]) -> None:
        """End the connections to nodes that get one for other shards: each node has one."""
        nodes: set[Node | None] = set()
        for shard in missing:
            with contextlib.suppress(*self._server.failures):
                nodes.add(self._server.node_of(shard))
        for each in list(self._subscriptions):
            if each.node in nodes:
                self._lose(each)

    def _connect(self, missing: list[int]) -> None:
        patterns = self._go.patterns if self._go is not None else ()
        made, error = self._server.subscribe(missing, patterns)
        now = self._clock()
        for each in made:
            each.heard = each.pinged = now
        self._subscriptions += made
        if error is not None:
            self._failed(error)
        else:
            self._connected = now
            for source in self._sources.values():
                source.seen = now  # not all could be heard meanwhile
            self._reach.up(_PART)
        if made:
            if self._has_failed:
                self._give(_KEPT, "")  # it may have been told of meanwhile, which no number tells
            self._greet(True)

    def _failed(self, error: Exception) -> None:
        if self._closed.is_set():
            return
        self._reach.down(_PART, error)
        self._has_failed = True
        if self._heard - self._connected > _STABLE:
            self._attempt = 0
        self._attempt += 1
        self._next_try = self._clock() + retry_wait(self._attempt)

    def _lose(self, subscription: Subscription, error: Exception | None = None) -> None:
        """End a connection: after an error, or as its shards have other nodes now."""
        self._subscriptions.remove(subscription)
        subscription.close()
        self._has_failed = True
        if error is not None:
            self._failed(error)

    def _read(self, subscription: Subscription) -> None:
        now = self._clock()
        try:
            body = subscription.read()
        except self._server.failures as error:
            self._lose(subscription, error)
            return
        self._heard = subscription.heard = now
        if isinstance(body, Matched):
            self._take_from_go(body)
        elif body is not None:
            self._take(*body, now)

    def _attend_to(self, subscription: Subscription, now: float) -> None:
        """Ask for a sign of life, and end a connection that gives none or belongs elsewhere."""
        if not subscription.is_current:
            self._lose(subscription)
        elif now - subscription.heard > _SILENCE:
            self._lose(subscription, TimeoutError(f"no answer for {_SILENCE:g} seconds"))
        elif now - subscription.pinged >= _PING_EVERY:
            subscription.pinged = now
            try:
                subscription.ping()
            except self._server.failures as error:
                self._lose(subscription, error)

    def _patience(self) -> float:
        """Return how long to wait for something to come."""
        most = _OFFER_EVERY if self._waiting else _POLL
        if not self._missing():
            return most
        return min(max(self._next_try - self._clock(), 0.0), most)

    # Notices.

    def _take(self, shard: int, body: bytes, now: float) -> None:
        if body.startswith(self._own):
            if body.endswith(BYE):
                self._closed.set()  # the last word of this process itself
            return
        try:
            envelope = opened(body, self._needs)
        except ValueError as error:
            self._refuse(self._server.bus_of(shard), error)
            return
        if self._is_news(envelope, shard, now) and envelope.notice is not None:
            self._give(envelope.notice, envelope.source)

    def _take_from_go(self, matched: Matched) -> None:
        assert self._go is not None
        try:
            notice = self._go.heard(*matched)
        except ValueError as error:
            self._refuse(matched.channel.decode(errors="replace"), error)
            return
        if notice is not None:
            self._give(notice, "")

    def _needs(self, notice: Notice) -> bool:
        if self._reception.needs(notice):
            return True
        self._counts.received += notice.stands_for  # all the same; it is not handed on
        return False

    def _refuse(self, channel: str, error: ValueError) -> None:
        self._counts.invalid += 1
        self._warned += 1
        if self._warned <= _MOST_WARNED:
            logger.warning(
                "the backplane ignored what is no notice, in the channel %s of %s: %s",
                excerpt(channel),
                self._server.label,
                excerpt(str(error), 300),
            )

    def _is_news(self, envelope: Envelope, shard: int, now: float) -> bool:
        """Note whose a notice is; return whether it has not come before."""
        source = self._sources.get(envelope.source)
        if envelope.kind == "bye":
            self._silent.pop(envelope.source, None)
            if source is not None:
                self._end(envelope, source, shard)
            return False
        step = envelope.stands_for if envelope.is_counted else 0
        if source is None:
            if envelope.kind == NoticeKind.KEPT and envelope.number == 0:
                return True  # a store's, which has no numbers
            if len(self._sources) >= _MOST_SOURCES:
                bus = self._server.bus_of(shard)
                self._refuse(bus, ValueError(f"more than {_MOST_SOURCES} senders"))
                return False
            numbers = self._silent.pop(envelope.source, {})
            source = self._sources[envelope.source] = _Source(now, envelope.listens, numbers)
        if envelope.asks:
            self._greet(False)
        source.seen = now
        number = source.numbers.setdefault(shard, envelope.number - step)
        if step and envelope.number <= number:
            return False
        self._reception.missed(envelope.number - number - step)
        source.numbers[shard] = max(envelope.number, number)
        return True

    def _end(self, envelope: Envelope, source: _Source, shard: int) -> None:
        """Note that a process has ended, once it has said so in all shards."""
        number = source.numbers.setdefault(shard, envelope.number)
        self._reception.missed(envelope.number - number)
        source.numbers[shard] = max(envelope.number, number)
        source.ended.add(shard)
        if len(source.ended) == self._server.shards:
            del self._sources[envelope.source]
            self._reception.gone(envelope.source)
            self._reception.left()

    def _forget_gone(self, now: float) -> None:
        """Forget the processes that have not been heard for long, and look for what they left."""
        for name in [name for name, each in self._sources.items() if now - each.seen > _GONE]:
            self._silent[name] = self._sources.pop(name).numbers
            if len(self._silent) > _MOST_SOURCES:
                self._silent.popitem(last=False)
            self._reception.gone(name)
        if self._reach.is_up:
            self._reception.left()

    # The receiver.

    def _give(self, notice: Notice, source: str) -> None:
        if not self._waiting and self._reception.offer(notice, source):
            return
        if notice.kind is NoticeKind.KEPT and any(
            [each.kind is notice.kind for each, _ in self._waiting]
        ):
            return
        if self._waiting_bytes >= MAX_WAITING_BYTES and notice.kind not in ALWAYS:
            self._reception.missed(notice.stands_for)
            return
        self._waiting.append((notice, source))
        self._waiting_bytes += _size_of(notice)
        self._next_offer = self._clock() + _OFFER_EVERY

    def _offer_waiting(self) -> None:
        while self._waiting and self._clock() >= self._next_offer:
            if not self._reception.offer(*self._waiting[0]):
                self._next_offer = self._clock() + _OFFER_EVERY
                return
            self._waiting_bytes -= _size_of(self._waiting.popleft()[0])


def _size_of(notice: Notice) -> int:
    return _NOTICE_BYTES + sum(map(len, notice.texts))
