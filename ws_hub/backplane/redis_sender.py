"""Tells the others over Redis: the thread that publishes, and what waits for it.

Rules of this file:

- Nobody waits to tell. What waits is bounded in bytes and in seconds: what is older is not told
  any more, which the others see by its number.
- What was sent and not answered is sent again with the same number, after a fault, so that a
  receiver that has it knows it.
- What Go hubs get is sent after that, and once: they do not know what they have. So a fault
  between the two may lose it, and doubles nothing.
- Every two seconds the thread says that this process is there, and renews what it claims, and
  the rules. This needs a server that can be written to: on a replica nobody else would hear it.
- Of a cluster each shard has a channel, and numbers of its own: one that cannot be reached delays
  no other. There, what has not changed is said in the first shard alone.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import threads
from ..errors import excerpt
from ..log import get_logger
from ..reentrant import Wakeup, nested
from .bus import ALWAYS, Notice, NoticeKind
from .envelopes import BYE, HELLO, HELLO_ALL, MAX_BODY_BYTES, sealed
from .go_bridge import GoBridge
from .peers import MAX_WAITING_BYTES, Counts
from .reach import Reach, retry_wait
from .redis_address import Node
from .redis_claims import RedisClaims
from .redis_links import Sessions
from .redis_rules import RedisRules
from .redis_server import RedisServer, Session
from .told import Told, ToldQueue

__all__ = ["BEAT_EVERY", "RedisSender"]

logger = get_logger(__name__)

BEAT_EVERY = 2.0  # seconds
_MOST_AGE = 10.0  # seconds for which a notice waits for the server
_BATCH, _BATCH_BYTES = 500, 1024 * 1024  # of one pipeline
_MAX_TAIL_BYTES = MAX_BODY_BYTES - 128  # without the version, the name and the number
_GRACE = 1.0  # seconds for the thread to end after its time is over
_AFTER_FAULT = 0.1  # seconds of rest after an exception that nothing here expects
_PART = "publish"  # of `Reach`


class _Sent(NamedTuple):
    """A notice with its number, which stays the same when it is sent again."""

    told: Told
    body: bytes
    number: int


@dataclass(slots=True)
class _Lane:
    """What goes to one shard.

    Args:
        shard: its number.
        sent: what is not answered yet.
        size: the bytes of that.
        number: of the last counted notice.
        said: that number in the last sign of life there, -1 for none.
        attempt: how often in a row it has failed.
        next_try: not before, in monotonic seconds.
        asks: whether the next sign of life asks for those of others.
    """

    shard: int
    sent: deque[_Sent] = field(default_factory=deque)
    size: int = 0
    number: int = 0
    said: int = -1
    attempt: int = 0
    next_try: float = 0.0
    asks: bool = False

    def has_to_say(self) -> bool:
        """Return whether a sign of life says something that was not said there."""
        return self.shard == 0 or self.asks or self.number != self.said

    def set(self, sent: Iterable[_Sent]) -> None:
        """Have other notices be those that are not answered."""
        self.sent = deque(sent)
        self.size = sum([len(each.body) for each in self.sent])


class RedisSender:
    """What one life of a backplane tells.

    Args:
        server: the server.
        source: the name of this process on the bus.
        renews: what it renews with each sign of life.
        reach: what it reports to.
        counts: what to count in.
        listens: whether this process hears the others.
        clock: monotonic seconds.

    Attributes:
        heard: processes that have heard what was sent last; of a cluster, in its shard.
    """

    def __init__(
        self,
        server: RedisServer,
        source: str,
        renews: tuple[RedisClaims, RedisRules],
        reach: Reach,
        counts: Counts,
        *,
        listens: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._source = source
        self._go = GoBridge(server.prefix, source, counts) if server.go else None
        self._claims, self._rules = renews
        self._listens = listens
        self.heard = 0  # written by the thread
        self._reach = reach
        self._counts = counts
        self._clock = clock
        self._wake = Wakeup()
        self._told = ToldQueue(self._wake, _MAX_TAIL_BYTES, clock)
        self._deadline: float | None = None  # until when to send before the end; written once
        self._next_beat = 0.0  # set to 0.0 by any thread, for a beat at once
        # Whether the next sign of life is one of all shards, and asks for those of others.
        self._says = self._asks = False
        self._thread: threading.Thread | None = None
        # The thread's own.
        self._sessions = Sessions(server)
        self._lanes = [_Lane(shard) for shard in range(server.shards)]
        self._is_refused = False  # the last sign of life could not be written
        self._is_refused_to_go = False  # the last message for Go hubs was
        self._alone: set[int] = set()  # the shards in which nobody hears what is sent

    # --- any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threads.start("ws-hub:bus-send", self._run)

    def tell(self, notice: Notice) -> None:
        """Have the thread tell the others; never waits. Raises ValueError, see `encode`."""
        self._told.put(notice)

    def greet(self, asks: bool) -> None:
        """Say at once that this process is there; have the others do the same if it `asks`."""
        self._asks = self._asks or asks
        self._says = True
        self._next_beat = 0.0
        self._wake.signal()

    def dropped(self) -> int:
        """Return the number of lost notices that are not counted yet."""
        return self._told.dropped()

    def finish(self, timeout: float) -> None:
        """Send what was told, for so many seconds at most, and end the thread."""
        self._deadline = self._clock() + max(timeout, 0.0)
        self._wake.signal()
        if not nested():
            threads.join(self._thread, max(timeout, 0.0) + _GRACE)

    # --- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            goes_on = True
            while goes_on:
                self._wake.wait(self._patience())
                try:
                    goes_on = self._turn()
                except Exception:  # noqa: BLE001 - the top of a thread
                    logger.exception("a turn of the backplane's sender failed")
                    goes_on = self._deadline is None
                    time.sleep(_AFTER_FAULT)  # it may come at each turn
        finally:
            self._release()

    def _turn(self) -> bool:
        """Send what waits; False at the end."""
        now = self._clock()
        dropped = self._told.take_dropped()
        self._lanes[0].number += dropped
        self._counts.lost += dropped
        self._fill(now)
        self._send(now)
        if self._deadline is None:
            return True
        if self._told or any([lane.sent for lane in self._lanes]):
            return self._clock() < self._deadline
        return False

    def _patience(self) -> float:
        """Return how long there is nothing to do without a signal."""
        now = self._clock()
        going = [lane for lane in self._lanes if not lane.attempt]
        if going and (self._told or any([lane.sent for lane in going])):
            return 0.0
        times = [lane.next_try for lane in self._lanes if lane.attempt]
        times += [self._next_beat] if going else []
        times += [] if self._deadline is None else [self._deadline]
        return min(max(min(times) - now, 0.0), BEAT_EVERY)

    def _fill(self, now: float) -> None:
        """Have a batch wait to be sent, without what is too old to be told."""
        for lane in self._lanes:
            fresh = [each for each in lane.sent if not self._is_old(each.told, now)]
            self._counts.lost += _notices(lane.sent) - _notices(fresh)
            lane.set(fresh)
        # What waits for a shard that fails keeps none of the others waiting.
        all_fail = all([lane.attempt for lane in self._lanes])
        measured = [lane for lane in self._lanes if all_fail or not lane.attempt]
        count = sum([len(lane.sent) for lane in measured])
        size = sum([lane.size for lane in measured])
        while count < _BATCH and size < _BATCH_BYTES:
            told = self._told.take()
            if told is None:
                break
            lane = self._lanes[self._server.shard_of(told.name)]
            lane.number += 0 if told.kind is NoticeKind.KEPT else told.stands_for
            if told.kind not in ALWAYS and (
                self._is_old(told, now) or lane.size >= MAX_WAITING_BYTES
            ):
                self._counts.lost += told.stands_for
                continue
            body = self._sealed(lane, told.tail)
            lane.size += len(body)
            lane.sent.append(_Sent(told, body, lane.number))
            if all_fail or not lane.attempt:
                count, size = count + 1, size + len(body)

    def _sealed(self, lane: _Lane, tail: bytes) -> bytes:
        return sealed(self._source, lane.number, tail, listens=self._listens)

    def _is_old(self, told: Told, now: float) -> bool:
        return told.kind not in ALWAYS and now - told.at > _MOST_AGE

    def _send(self, now: float) -> None:
        """Send what waits, and a sign of life where it is due."""
        beats = now >= self._next_beat
        due = [
            lane
            for lane in self._lanes
            if now >= lane.next_try and (beats or lane.sent or lane.attempt)
        ]
        if beats and due:
            self._next_beat = now + BEAT_EVERY  # before it is sent: another may be asked for
            self._prepare_beat()
        for node, lanes in self._by_node(due).items():
            try:
                self._send_to(node, lanes, beats)
            except self._server.failures as error:
                self._failed(lanes, error, node)
        if due and not any([lane.attempt for lane in self._lanes]):
            self._reach.up(_PART)

    def _prepare_beat(self) -> None:
        """Have each lane say what it was asked to."""
        asks, self._asks = self._asks, False
        says, self._says = self._says, False
        for lane in self._lanes:
            lane.asks = (lane.asks or asks) and self._listens
            if says:
                lane.said = -1

    def _by_node(self, lanes: list[_Lane]) -> dict[Node | None, list[_Lane]]:
        found: dict[Node | None, list[_Lane]] = {}
        for lane in lanes:
            try:
                node = self._server.node_of(lane.shard)
            except self._server.failures as error:
                self._failed([lane], error)
            else:
                found.setdefault(node, []).append(lane)
        return found

    def _send_to(self, node: Node | None, lanes: list[_Lane], beats: bool) -> None:
        """Send what lanes have to one node, in one go; raises what it has answered."""
        session = self._sessions.get(node, lanes[0].shard)
        commands: list[tuple[Any, ...]] = []
        released: list[str] = []
        shares: list[tuple[Any, ...]] = []
        if beats and lanes[0].shard == 0:
            commands, released = self._claims.beat()
            shares = self._rules.beat()
            commands += shares
        renewing = len(commands)
        said = [lane for lane in lanes if (beats or lane.attempt) and lane.has_to_say()]
        for lane in lanes:
            commands += [self._server.publication(lane.shard, each.body) for each in lane.sent]
        for lane in said:  # behind them, with the number of the last
            tail = HELLO_ALL if lane.asks else HELLO
            commands.append(self._server.publication(lane.shard, self._sealed(lane, tail)))
        answers = session.calls(commands)
        self._judge(answers[:renewing])
        for answer in answers[renewing:]:
            if isinstance(answer, Exception):
                raise answer
        sent = [(lane, each) for lane in lanes for each in lane.sent]
        self._count(sent, answers[renewing:])
        if renewing:
            self._claims.released(released)
        if shares:
            self._rules.answered(answers[renewing - 1], heard=self.heard > 0)
        for lane in said:
            lane.said, lane.asks = lane.number, False
        for lane in lanes:
            lane.set(())
            lane.attempt, lane.next_try = 0, 0.0
        if self._go is not None:
            self._send_to_go(session, self._go, [each for _, each in sent])

    def _send_to_go(self, session: Session, go: GoBridge, sent: list[_Sent]) -> None:
        """Send what Go hubs get of notices, in one go; never again. Raises what a fault does."""
        found = [pair for each in sent for pair in go.bodies(each.told.tail, each.number)]
        try:
            answers = session.calls([("PUBLISH", *pair) for pair in found])
        except self._server.failures:
            self._counts.lost += len(found)
            raise
        errors = [each for each in answers if isinstance(each, Exception)]
        self._counts.go_told += len(found) - len(errors)
        self._counts.lost += len(errors)
        if errors and not self._is_refused_to_go:
            logger.warning(
                "%s refuses what is for Go hubs, which is lost to them: %s",
                self._server.label,
                excerpt(str(errors[0]), 300),
            )
        if answers:
            self._is_refused_to_go = bool(errors)

    def _count(self, sent: list[tuple[_Lane, _Sent]], answers: list[Any]) -> None:
        """Count how many others have got notices, of the answers to these and signs of life."""
        own = 1 if self._listens and self._reach.has("subscribe") else 0
        for each, answer in itertools.zip_longest(sent, answers):
            self.heard = max(int(answer) - own, 0)
            if each is not None and each[1].told.kind is not NoticeKind.KEPT:
                self._counts.told += self.heard * each[1].told.stands_for
                self._warn_when_alone(each[0])

    def _warn_when_alone(self, lane: _Lane) -> None:
        """Warn that nobody hears what is sent, where that is all that this process is for."""
        if self.heard or self._listens:
            self._alone.discard(lane.shard)
            return
        if not self._alone:
            logger.warning(
                "no process of the application is reached at %s: what is published is lost, but "
                "for channels with history. Start the application, or name its server and prefix",
                self._server.label,
            )
        self._alone.add(lane.shard)

    def _judge(self, answers: list[Any]) -> None:
        """Raise the answer of a replica; another error of writing is no fault of the bus."""
        errors = [each for each in answers if isinstance(each, Exception)]
        for error in errors:
            if self._server.is_elsewhere(error):
                raise error
        if errors and not self._is_refused:
            logger.warning(
                "%s keeps nothing: %s. Messages are told, but process ids are not claimed",
                self._server.label,
                excerpt(str(errors[0]), 300),
            )
        if answers:
            self._is_refused = bool(errors)

    def _failed(self, lanes: list[_Lane], error: Exception, node: Node | None = None) -> None:
        self._sessions.drop(node)  # to a replica, too, it is made anew
        if self._server.is_elsewhere(error):
            self._server.finder.failed(node)
        for lane in lanes:
            lane.attempt += 1
            lane.next_try = self._clock() + retry_wait(lane.attempt)
            lane.said, lane.asks = -1, self._listens
        self._next_beat, self.heard = 0.0, 0
        self._reach.down(_PART, error)

    def _release(self) -> None:
        """Say that this process ends; count and log what was told and is not sent."""
        left = [each.told for lane in self._lanes for each in lane.sent]
        while (told := self._told.take()) is not None:
            left.append(told)
        untold = sum(each.stands_for for each in left if each.kind is not NoticeKind.KEPT)
        if untold:
            self._counts.lost += untold
            logger.warning(
                "the backplane has ended before %d notices were told: what was published last is "
                "missing at the other processes",
                untold,
            )
        going = [lane for lane in self._lanes if not lane.attempt]
        for node, lanes in self._by_node(going).items():
            byes = [(lane.shard, self._sealed(lane, BYE)) for lane in lanes]
            try:
                session = self._sessions.get(node, lanes[0].shard)
                session.calls([self._server.publication(*each) for each in byes])
            except self._server.failures as error:
                logger.debug("the backplane could not say that it ends: %s", error)
        self._sessions.close()


def _notices(sent: Sequence[_Sent]) -> int:
    return sum([each.told.stands_for for each in sent])
