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
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from .. import threads
from ..errors import excerpt
from ..log import get_logger
from ..reentrant import Wakeup, nested
from .bus import Notice, NoticeKind
from .envelopes import BYE, HELLO, HELLO_ALL, MAX_BODY_BYTES, sealed
from .go_bridge import GoBridge
from .peers import Counts
from .reach import Reach, retry_wait
from .redis_claims import RedisClaims
from .redis_rules import RedisRules
from .redis_server import RedisServer
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
        heard: processes that have heard what was sent last.
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
        self._channel = server.bus
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
        self._asks = False  # whether the next sign of life asks for those of others
        self._thread: threading.Thread | None = None
        # The thread's own.
        self._client: Any = None  # redis-py's, None before the start and after the end
        self._sent: deque[_Sent] = deque()  # not answered yet
        self._number = 0  # of the last counted notice
        self._attempt = 0
        self._next_try = 0.0
        self._is_refused = False  # the last sign of life could not be written
        self._is_refused_to_go = False  # the last message for Go hubs was
        self._is_alone = False  # the log says that nobody hears what is sent

    # --- any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._client = self._server.client()
        self._thread = threads.start("ws-hub:bus-send", self._run)

    def tell(self, notice: Notice) -> None:
        """Have the thread tell the others; never waits. Raises ValueError, see `encode`."""
        self._told.put(notice)

    def greet(self, asks: bool) -> None:
        """Say at once that this process is there; have the others do the same if it `asks`."""
        self._asks = self._asks or asks
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
        self._number += dropped
        self._counts.lost += dropped
        self._fill(now)
        if now >= self._next_try:
            self._send(now)
        if self._deadline is None:
            return True
        if self._sent or self._told:
            return self._clock() < self._deadline
        return False

    def _patience(self) -> float:
        """Return how long there is nothing to do without a signal."""
        now, is_failing = self._clock(), self._attempt > 0
        if (self._sent or self._told) and not is_failing:
            return 0.0
        until = self._next_try if is_failing else self._next_beat
        if self._deadline is not None:
            until = min(until, self._deadline)
        return min(max(until - now, 0.0), BEAT_EVERY)

    def _fill(self, now: float) -> None:
        """Have a batch wait to be sent, without what is too old to be told."""
        fresh = [each for each in self._sent if not self._is_old(each.told, now)]
        self._counts.lost += len(self._sent) - len(fresh)
        self._sent = deque(fresh)
        size = sum([len(each.body) for each in fresh])
        while len(self._sent) < _BATCH and size < _BATCH_BYTES:
            told = self._told.take()
            if told is None:
                break
            self._number += told.kind is not NoticeKind.KEPT
            if self._is_old(told, now):
                self._counts.lost += 1
                continue
            body = self._sealed(told.tail)
            size += len(body)
            self._sent.append(_Sent(told, body, self._number))

    def _sealed(self, tail: bytes) -> bytes:
        return sealed(self._source, self._number, tail, listens=self._listens)

    def _is_old(self, told: Told, now: float) -> bool:
        return told.kind not in (NoticeKind.KEPT, NoticeKind.DISCONNECT) and (
            now - told.at > _MOST_AGE
        )

    def _send(self, now: float) -> None:
        """Send what waits in one go, and a sign of life where it is due."""
        beats = now >= self._next_beat
        if not beats and not self._sent:
            return
        assert self._client is not None
        pipe = self._client.pipeline(transaction=False)
        released: list[str] = []
        if beats:
            self._next_beat = now + BEAT_EVERY  # before it is sent: another may be asked for
            released = self._claims.beat(pipe)
        shares = beats and self._rules.beat(pipe)
        renewing = len(pipe)
        for each in self._sent:
            pipe.publish(self._channel, each.body)
        if beats:  # behind them, with the number of the last
            asks, self._asks = self._asks and self._listens, False
            pipe.publish(self._channel, self._sealed(HELLO_ALL if asks else HELLO))
        try:
            answers: list[Any] = pipe.execute(raise_on_error=False)
            self._judge(answers[:renewing])
            heard = self._check(answers[renewing:])
        except self._server.failures as error:
            self._failed(error)
            return
        self._claims.released(released)
        if shares:
            self._rules.answered(answers[renewing - 1], heard=self.heard > 0)
        self._counts.told += heard
        sent = [*self._sent]
        self._sent.clear()
        self._attempt, self._next_try = 0, 0.0
        self._reach.up(_PART)
        if self._go is not None:
            self._send_to_go(self._go, sent)

    def _send_to_go(self, go: GoBridge, sent: list[_Sent]) -> None:
        """Send what Go hubs get of notices, in one go; never again."""
        assert self._client is not None
        pipe = self._client.pipeline(transaction=False)
        for each in sent:
            for channel, body in go.bodies(each.told.tail, each.number):
                pipe.publish(channel, body)
        count = len(pipe)
        try:
            answers: list[Any] = pipe.execute(raise_on_error=False)
        except self._server.failures as error:
            self._counts.lost += count
            self._failed(error)
            return
        errors = [each for each in answers if isinstance(each, Exception)]
        self._counts.go_told += count - len(errors)
        self._counts.lost += len(errors)
        if errors and not self._is_refused_to_go:
            logger.warning(
                "%s refuses what is for Go hubs, which is lost to them: %s",
                self._server.label,
                excerpt(str(errors[0]), 300),
            )
        if answers:
            self._is_refused_to_go = bool(errors)

    def _check(self, answers: list[Any]) -> int:
        """Return how many others have got notices, in all; raises what the server has answered."""
        own = 1 if self._listens and self._reach.has("subscribe") else 0
        heard = 0
        for each, answer in itertools.zip_longest(self._sent, answers):
            if isinstance(answer, Exception):
                raise answer
            self.heard = max(int(answer) - own, 0)
            if each is not None and each.told.kind is not NoticeKind.KEPT:  # nor a sign of life
                heard += self.heard
                self._warn_when_alone()
        return heard

    def _warn_when_alone(self) -> None:
        """Warn that nobody hears what is sent, where that is all that this process is for."""
        was_alone, self._is_alone = self._is_alone, self.heard == 0 and not self._listens
        if self._is_alone and not was_alone:
            logger.warning(
                "no process of the application is reached at %s: what is published is lost, but "
                "for channels with history. Start the application, or name its server and prefix",
                self._server.label,
            )

    def _judge(self, answers: list[Any]) -> None:
        """Raise the answer of a replica; another error of writing is no fault of the bus."""
        errors = [each for each in answers if isinstance(each, Exception)]
        for error in errors:
            if self._server.is_of_replica(error):
                raise error
        if errors and not self._is_refused:
            logger.warning(
                "%s keeps nothing: %s. Messages are told, but process ids are not claimed",
                self._server.label,
                excerpt(str(errors[0]), 300),
            )
        if answers:
            self._is_refused = bool(errors)

    def _failed(self, error: Exception) -> None:
        self._attempt += 1
        self._next_try = self._clock() + retry_wait(self._attempt)
        self._next_beat, self._asks, self.heard = 0.0, True, 0
        if self._client is not None:
            self._client.connection_pool.disconnect()  # to a replica, too, it is made anew
        self._reach.down(_PART, error)

    def _release(self) -> None:
        """Say that this process ends; count and log what was told and is not sent."""
        untold = sum(each.told.kind is not NoticeKind.KEPT for each in self._sent)
        while (told := self._told.take()) is not None:
            untold += told.kind is not NoticeKind.KEPT
        if untold:
            self._counts.lost += untold
            logger.warning(
                "the backplane has ended before %d notices were told: what was published last is "
                "missing at the other processes",
                untold,
            )
        client, self._client = self._client, None
        if client is not None:
            try:
                if self._attempt == 0:
                    client.publish(self._channel, self._sealed(BYE))
            except self._server.failures as error:
                logger.debug("the backplane could not say that it ends: %s", error)
            finally:
                client.close()
