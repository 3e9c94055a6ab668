"""The recorder: commits what is published to channels with history, then has it delivered.

Only with a history store; without one the hub thread numbers and keeps in memory. Rules of
this file:

- Commit first, then deliver: what a client has seen is in the store.
- All that must keep its order in a channel with history comes this way: its messages, the
  subscriptions to it, and who waits for either. The hub thread never waits for a disk.
- A commit takes what waits, one transaction a channel. It is not waited for more.
- Messages that other processes have kept meanwhile are delivered before one's own: clients
  here see every number, in order.
- What the store cannot keep is delivered without a number. The number is left out when it
  works again, so that a client that was away learns of a gap.

The cache that replays are served from is filled here, before a subscription that needs it is
passed on.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from .. import threads
from ..backplane.store import HistoryStore, Page
from ..config import ChannelRule
from ..connection.connection import Connection
from ..errors import WsHubError
from ..log import get_logger
from ..protocol.frames import text_frame
from ..protocol.publication import Publication, restored
from ..reentrant import Event, ReentrantQueue, Wakeup
from .dispatcher import Activation
from .history import Filled, History, Position
from .items import Fill, Item, Publications, Watched
from .stats import Counters

__all__ = ["Recorder"]

logger = get_logger(__name__)

T = TypeVar("T")

_MAX_CHANNELS = 10_000  # whose last number is remembered
_RETRY = 1.0  # seconds until a store that has failed is tried again
_EXPIRY = 10.0  # seconds between two looks at what is kept no longer
_PAGE = 1000
_SLICE = 0.5  # seconds of one wait for room in the hub's queue


class Recorder:
    """The thread between publishers and the hub thread, for channels with history.

    Args:
        store: what numbers and keeps.
        history: the cache, which the hub thread owns.
        rule_for: returns what holds for a channel.
        intake: what it sleeps on, and what it takes from.
        hub: the same of the hub thread.
        refuse: called with a subscription that cannot be answered; says whether it was refused.
        counters: what is counted.
    """

    def __init__(
        self,
        store: HistoryStore,
        history: History,
        rule_for: Callable[[str], ChannelRule],
        intake: tuple[Wakeup, ReentrantQueue[Item]],
        hub: tuple[Wakeup, ReentrantQueue[Item]],
        refuse: Callable[[Activation], bool],
        counters: Counters,
    ) -> None:
        self._store = store
        self._history = history
        self._rule_for = rule_for
        self._wakeup, self.queue = intake
        self._hub_wakeup, self._deliver = hub
        self._refuse = refuse
        self._counters = counters
        # How far each channel was delivered here, longest unused first; by the recorder's
        # thread, as are the numbers that are to be left out, and when to try the store again.
        self._known: OrderedDict[str, Position] = OrderedDict()
        self._lost: OrderedDict[str, int] = OrderedDict()
        self._failed: Exception | None = None
        self._retry = self._expiry = 0.0
        self._closed = self._abandoned = False  # set once, by the hub thread
        self.ended = Event()
        self._thread: threading.Thread | None = None

    # --- hub thread, and the one that starts the hub -----------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threads.start("ws-hub:history", self._run)

    def close(self) -> None:
        """Tell the thread to end, after what waits."""
        self._closed = True
        if self._thread is None:
            self.ended.set()
        self._wakeup.signal()

    def abandon(self) -> None:
        """Tell the thread not to wait for room any more: nobody makes any."""
        self._abandoned = True

    def join(self, timeout: float) -> bool:
        """Wait for the thread; False when it still waits for the disk."""
        return threads.join(self._thread, timeout)

    # --- the recorder's thread ---------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not (self._closed and self.queue.empty()):
                self._wakeup.wait(0.0 if self._closed else _EXPIRY)
                try:
                    self._turn()
                except Exception:  # noqa: BLE001 - the top of a thread
                    self._counters.add("internal_errors")
                    logger.exception("the history thread goes on after an error")
        finally:
            self._store.close()
            self.ended.set()
            self._hub_wakeup.signal()

    def _turn(self) -> None:
        """Do what waits."""
        for published, run in itertools.groupby(self._take(), _is_published):
            if published:
                self._hand(self._record([each for item in run for each in _each(item)]))
                continue
            for item in run:
                if isinstance(item, Watched):
                    others = self._record(item.each)[: -len(item.each)]  # all are of one channel
                    self._hand(others)
                if not (isinstance(item, Activation) and self._is_refused(item)):
                    self._put(item)
        now = time.monotonic()
        if now >= self._expiry and not self._is_failing(now):
            self._expiry = now + _EXPIRY
            self._try(lambda: self._store.expire(time.time()))

    def _take(self) -> list[Item]:
        items: list[Item] = []
        try:
            while True:
                items.append(self.queue.get_nowait())
        except queue.Empty:
            return items

    def _record(self, publications: Sequence[Publication]) -> list[Publication]:
        """Commit publications; return what is to be delivered, in order."""
        began = time.thread_time()
        groups: dict[str, list[Publication]] = {}
        for publication in publications:
            groups.setdefault(publication.channel, []).append(publication)
        before = {channel: self._append(channel, group) for channel, group in groups.items()}
        found: list[Publication] = []
        for publication in publications:
            found += before.pop(publication.channel, ())  # those of other processes
            found.append(publication)
        payers = [each.payer for each in publications if each.payer is not None]
        if payers:
            seconds = (time.thread_time() - began) / len(publications)
            for payer in payers:
                payer.charge_processing(seconds)
        return found

    def _append(self, channel: str, group: Sequence[Publication]) -> list[Publication]:
        """Number and keep messages of one channel; return those to be delivered before."""
        skip, missed = self._lost.get(channel, 0), list[Publication]()
        texts, ends = [each.text for each in group], group[-1].ends_channel
        once = [each.once for each in group if each.once]
        span = self._try(
            lambda: self._store.append(channel, texts, ends=ends, skip=skip, once=once)
        )
        if span is None:
            self._leave_unnumbered(channel, group)
            return []
        self._lost.pop(channel, None)
        known = self._known.get(channel)
        if known is not None and known.epoch == span.epoch and known.seq < span.first - skip - 1:
            self._try(lambda: missed.extend(self._missed(channel, known, span.first - 1)))
        for seq, publication in enumerate(group, span.first):
            publication.number(seq)
            publication.epoch = span.epoch
        self._know(channel, Position(span.epoch, span.last))
        return missed

    def _leave_unnumbered(self, channel: str, group: Sequence[Publication]) -> None:
        self._counters.add("history_failed", len(group))
        self._lost[channel] = self._lost.pop(channel, 0) + len(group)
        if len(self._lost) > _MAX_CHANNELS:
            self._lost.popitem(last=False)
        for publication in group:
            publication.leave_unnumbered()

    def _know(self, channel: str, position: Position) -> None:
        self._known[channel] = position
        self._known.move_to_end(channel)
        if len(self._known) > _MAX_CHANNELS:
            self._known.popitem(last=False)

    def _missed(self, channel: str, known: Position, up_to: int) -> Iterator[Publication]:
        """Yield the messages that others have kept behind a position."""
        overflow = self._rule_for(channel).overflow
        for page in self._pages(channel, known.seq):
            for each in page.messages:
                if page.kept.epoch != known.epoch or each.seq > up_to:
                    return
                yield restored(each.text, each.seq, known.epoch, channel, overflow)

    def _pages(self, channel: str, after: int) -> Iterator[Page]:
        """Yield all that is kept behind a number; the last page may be empty."""
        while True:
            page = self._store.read(channel, after=after, limit=_PAGE)
            yield page
            if not page.messages or page.messages[-1].seq >= page.kept.last:
                return
            after = page.messages[-1].seq

    # --- subscriptions -----------------------------------------------------------------------

    def _is_refused(self, activation: Activation) -> bool:
        """Have the cache hold what a subscription may ask for; refuse it when that fails."""
        began = time.thread_time()
        channel, subscriber = activation.subscription.channel, activation.subscription.subscriber
        prepared = self._try(lambda: self._refresh(channel))
        if isinstance(subscriber, Connection):
            subscriber.charge_processing(time.thread_time() - began)
        if prepared or (channel in self._known and self._history.is_whole(channel)):
            return False
        return self._refuse(activation)

    def _refresh(self, channel: str) -> bool:
        """Deliver what others have kept, and fill the cache where it has less than the store."""
        head, known = self._store.head(channel), self._known.get(channel)
        same = known is not None and known.epoch == head.epoch
        if known is not None and same and head.last > known.seq:
            missed = list(self._missed(channel, known, head.last))
            self._hand(missed)
            self._know(channel, Position(head.epoch, head.last))
        if same and self._history.is_whole(channel):
            return True
        messages: list[tuple[int, bytes]] = []
        for page in self._pages(channel, 0):
            messages += [(each.seq, text_frame(each.text)) for each in page.messages]
            head = page.kept
        last = self._known[channel].seq if same else head.last
        # What was kept since is delivered when it is next looked at.
        messages = [each for each in messages if each[0] <= last]
        self._put(Fill(channel, Filled(head.epoch, last, messages)))
        self._know(channel, Position(head.epoch, last))
        return True

    # --- the store, and the hub's queue ------------------------------------------------------

    def _try(self, use: Callable[[], T]) -> T | None:
        """Use the store; None when it fails, or has just failed."""
        now = time.monotonic()
        if self._is_failing(now):
            return None
        try:
            found = use()
        except Exception as error:  # noqa: BLE001 - a store may be the application's own
            if self._failed is None:
                known = isinstance(error, WsHubError)
                logger.error(
                    "%s. Messages are delivered without numbers until it can",
                    error,
                    exc_info=None if known else error,
                )
            self._failed, self._retry = error, time.monotonic() + _RETRY
            return None
        if self._failed is not None:
            self._failed = None
            logger.warning("history is kept again")
        return found

    def _is_failing(self, now: float) -> bool:
        return self._failed is not None and now < self._retry

    def _hand(self, publications: Sequence[Publication]) -> None:
        """Have publications delivered, some hundred at a time: the hub's turns are short."""
        for start in range(0, len(publications), _PAGE):
            self._put(Publications(tuple(publications[start : start + _PAGE])))

    def _put(self, item: Item) -> None:
        """Put something in the hub's queue; waits while it is full."""
        while True:
            try:
                self._deliver.put(item, timeout=_SLICE)
                return
            except queue.Full:
                if self._abandoned:
                    self._deliver.force(item)
                    return


def _is_published(item: Item) -> bool:
    return isinstance(item, (Publication, Publications))


def _each(item: Item) -> Sequence[Publication]:
    if isinstance(item, Publications):
        return item.each
    assert isinstance(item, Publication)
    return (item,)
