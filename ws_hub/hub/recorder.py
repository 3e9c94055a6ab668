"""The recorder: commits what is published to channels with history, then has it delivered.

Only with a history store; without one the hub thread numbers and keeps in memory. Rules of
this file:

- Commit first, then deliver: what a client has seen is in the store.
- All that must keep its order in a channel with history comes this way: its messages, the
  subscriptions to it, and who waits for either. The hub thread never waits for a disk.
- A commit takes what waits, one transaction a channel. It is not waited for more.
- Messages that other processes have kept meanwhile are delivered before one's own: clients
  here see every number, in order. While channels have subscribers here, the thread looks for
  such messages by itself, many times a second.
- What the store cannot keep is delivered without a number. The number is left out when it
  works again, so that a client that was away learns of a gap.

The cache that replays are served from is filled here, before a subscription that needs it is
passed on.
"""

from __future__ import annotations

import functools
import itertools
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from .. import threads
from ..backplane.store import HistoryStore, Page, Span
from ..config import ChannelRule
from ..connection.connection import Connection
from ..errors import WsHubError
from ..log import get_logger
from ..protocol.frames import text_frame
from ..protocol.publication import USAGE_LINE, Publication, channel_of, restored, state_of
from ..reentrant import Event
from .dispatcher import Activation
from .history import Filled, History, Position
from .items import Fill, Item, Missing, Publications, Queues, Watched
from .stats import Counters

__all__ = ["Recorder"]

logger = get_logger(__name__)

T = TypeVar("T")

_MAX_CHANNELS = 10_000  # whose last number is remembered
_RETRY = 1.0  # seconds until a store that has failed is tried again
_EXPIRY = 10.0  # seconds between two looks at what is kept no longer
_LOOK = 0.05  # seconds between two looks for what other processes have kept
_REST = 9  # so many times as long as a look took is the pause behind it, if that is longer
_PAGE = 1000
_SLICE = 0.5  # seconds of one wait for room in the hub's queue


class Recorder:
    """The thread between publishers and the hub thread, for channels with history.

    Args:
        store: what numbers and keeps.
        history: the cache, which the hub thread owns.
        rule_for: returns what holds for a channel.
        queues: what it sleeps on and takes from, and the same of the hub thread.
        refuse: called with a subscription that cannot be answered; says whether it was refused.
        is_heard: says whether a channel has subscribers.
        counters: what is counted.
    """

    def __init__(
        self,
        store: HistoryStore,
        history: History,
        rule_for: Callable[[str], ChannelRule],
        queues: Queues,
        refuse: Callable[[Activation], bool],
        is_heard: Callable[[str], bool],
        counters: Counters,
    ) -> None:
        self._store = store
        self._history = history
        self._rule_for = rule_for
        self._wakeup, self.queue = queues.intake
        self._hub_wakeup, self._deliver = queues.wakeup, queues.broadcasts
        self._refuse = refuse
        self._is_heard = is_heard
        self._counters = counters
        # How far each channel was delivered here with nothing missing, longest unused first; by
        # the recorder's thread, as are the numbers that are to be left out, and when to look.
        self._known: OrderedDict[str, Position] = OrderedDict()
        self._lost: OrderedDict[str, int] = OrderedDict()
        # The states of lines that were delivered here, by channel and line.
        self._shown: dict[str, dict[int, bytes]] = {}
        self._reads = _Access("read", "Clients subscribe only to what is in memory until it can")
        self._writes = _Access("kept", "Messages are delivered without numbers until it can")
        self._watched: set[str] = set()  # the channels that have, or had, subscribers
        self._seen: object = None  # the version of the store up to which all is delivered
        self._expiry = self._next_look = self._rested = 0.0
        self._kept = False  # something was committed that was not announced
        # Called when something was committed, if it is set, which is before `start`.
        self.announce: Callable[[], object] | None = None
        self._closed = self._abandoned = False  # set once, by the hub thread
        self.ended = Event()
        self._thread: threading.Thread | None = None

    # --- hub thread, and the one that starts the hub -----------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threads.start("ws-hub:history", self._run)

    def close(self, timeout: float) -> None:
        """Tell the thread to end, after what waits, which the store has so many seconds for."""
        self._closed = True
        self._store.hurry(timeout)
        if self._thread is None:
            self.ended.set()
        self._wakeup.signal()

    def look_soon(self) -> None:
        """Look for what other processes have kept, as soon as the last look allows. Any thread."""
        self._next_look = self._rested
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
                self._wakeup.wait(0.0 if self._closed else self._pause())
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
        if self._kept and self.announce is not None:
            self._kept = False
            self.announce()
        now = time.monotonic()
        if self._watched and now >= self._next_look:
            self._look(now)
        if now >= self._expiry and not self._writes.is_failing(now):
            self._expiry = now + _EXPIRY
            self._forget_unheard()
            self._writes.attempt(lambda: self._store.expire(time.time()))

    def _pause(self) -> float:
        """Return how long to sleep: a process without subscribers has nothing to look for."""
        return min(self._next_look - time.monotonic(), _EXPIRY) if self._watched else _EXPIRY

    def _forget_unheard(self) -> None:
        self._watched = {channel for channel in self._watched if self._is_heard(channel)}

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
        for channel, run in itertools.groupby(publications, channel_of):
            groups.setdefault(channel, []).extend(run)
        before = {channel: self._append(channel, group) for channel, group in groups.items()}
        found: list[Publication] = []
        if len(groups) == 1:  # mostly
            (found,) = before.values()
            found += [each for each in publications if not each.repeats]
        else:
            for channel, run in itertools.groupby(publications, channel_of):
                found += before.pop(channel, ())  # those of other processes
                found += [each for each in run if not each.repeats]
        payers = [each.payer for each in publications if each.payer is not None]
        if payers:
            seconds = (time.thread_time() - began) / len(publications)
            for payer in payers:
                payer.charge_processing(seconds)
        return found

    def _append(self, channel: str, group: Sequence[Publication]) -> list[Publication]:
        """Number and keep messages of one channel; return those to be delivered before."""
        skip = self._lost.get(channel, 0)
        states = [each for each in group if each.state]
        for each in states:
            each.leave_unnumbered()
        changes = self._changes(channel, group)
        asked = [each for each in group if not each.state] if states else group
        span, group = self._commit(channel, asked, skip, changes)
        if span is None:
            self._leave_unnumbered(channel, group)
            return []
        if asked and not group:
            return []
        self._note_states(channel, changes, ends=any([each.ends_channel for each in group]))
        self._lost.pop(channel, None)
        self._kept = True
        epoch = span.epoch
        for seq, publication in enumerate(group, span.first):
            publication.number(seq)
            publication.epoch = epoch
        before = self._before(channel, Position(span.epoch, span.first - skip - 1))
        if before is None:
            known = self._known.pop(channel, None)
            if known is not None and known.epoch == span.epoch and channel in self._watched:
                self._put(Missing(channel, known.seq))
        else:
            self._know(channel, Position(span.epoch, span.last))
        return before or []

    def _commit(
        self,
        channel: str,
        group: Sequence[Publication],
        skip: int,
        states: Mapping[int, bytes | None],
    ) -> tuple[Span | None, Sequence[Publication]]:
        """Keep messages; return their numbers, None for a failure, and those it was about.

        Left out is what a client has published by way of another process in the meantime.
        """
        while True:
            texts, ends = [each.text for each in group], bool(group) and group[-1].ends_channel
            once = [each.once for each in group if each.once]
            append = functools.partial(
                self._store.append, channel, texts, ends=ends, skip=skip, once=once
            )
            if states:
                append = functools.partial(append, states=states)
            span = self._writes.attempt(append)
            if span is None or not span.repeated:
                return span, group
            for each in group:
                each.repeats = each.once in span.repeated
            group = [each for each in group if not each.repeats]
            if not group:
                return span, group

    def _before(self, channel: str, position: Position) -> list[Publication] | None:
        """Return what others have kept up to a position that is to be delivered; None for unread.

        What nobody waits for is read when somebody does.
        """
        known = self._known.get(channel)
        if known is None or known.epoch != position.epoch:
            return None if position.seq else []
        if known == position:
            return []
        if channel not in self._watched:
            return None
        # Also where a read has just failed: the store has kept something since.
        return self._reads.attempt(
            lambda: list(self._missed(channel, known, position.seq)), at_once=True
        )

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
        for _ in range(2 if len(self._known) > _MAX_CHANNELS else 0):
            oldest = next(iter(self._known))
            if oldest in self._watched:  # its subscribers would miss what others keep
                self._known.move_to_end(oldest)
            else:
                del self._known[oldest]

    def _missed(self, channel: str, known: Position, up_to: int) -> Iterator[Publication]:
        """Yield the messages that others have kept behind a position."""
        for page in self._pages(channel, known.seq):
            for publication in self._restored(channel, page):
                if publication.epoch != known.epoch or publication.seq > up_to:
                    return
                yield publication

    def _restored(self, channel: str, page: Page) -> Iterator[Publication]:
        epoch, overflow = page.kept.epoch, self._rule_for(channel).overflow
        for each in page.messages:
            yield restored(each.text, each.seq, epoch, channel, overflow)

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
        prepared = self._reads.attempt(lambda: self._refresh(channel))
        self._watched.add(channel)
        if isinstance(subscriber, Connection):
            subscriber.charge_processing(time.thread_time() - began)
        if prepared or self._is_answered_by_memory(activation):
            return False
        return self._refuse(activation)

    def _is_answered_by_memory(self, activation: Activation) -> bool:
        """Return whether the cache can answer a subscription where the store cannot be read."""
        channel, since = activation.subscription.channel, activation.since
        known = self._known.get(channel)
        if known is None or not self._history.is_whole(channel):
            return False
        # A client that was with another process may have more than is known here: it would be
        # told that the numbering has begun again, and get everything once more.
        return since is None or (activation.epoch in ("", known.epoch) and since <= known.seq)

    def _refresh(self, channel: str) -> bool:
        """Deliver what others have kept, and fill the cache where it has less than the store."""
        found = self._fill(channel)
        self._hand_states([channel])
        return found

    def _fill(self, channel: str) -> bool:
        head, known = self._store.head(channel), self._known.get(channel)
        same = known is not None and known.epoch == head.epoch
        if known is not None and same and head.last > known.seq:
            if channel in self._watched or head.last - known.seq <= _PAGE:
                self._hand(list(self._missed(channel, known, head.last)))
                self._know(channel, Position(head.epoch, head.last))
            else:
                same = False  # what nobody waits for need not be delivered
        if same and self._history.is_whole(channel):
            return True
        head, messages = self._newest(channel)
        last = self._known[channel].seq if same else head.last
        # What was kept since is delivered when it is next looked at.
        messages = [each for each in messages if each[0] <= last]
        self._put(Fill(channel, Filled(head, last, messages, self._rule_for(channel))))
        self._shown.pop(channel, None)  # what is filled is without states
        self._know(channel, Position(head.epoch, last))
        return True

    def _newest(self, channel: str) -> tuple[Span, list[tuple[int, bytes]]]:
        """Return the numbers of a channel, and as many of its messages as the cache may hold."""
        messages, left = list[tuple[int, bytes]](), self._history.most_of(channel)
        page = self._store.read(channel, last=_PAGE)
        head = page.kept
        while page.messages and page.kept.epoch == head.epoch:
            for each in reversed(page.messages):
                left -= len(each.text)
                if left < 0 and messages:
                    return head, messages[::-1]
                messages.append((each.seq, text_frame(each.text)))
            page = self._store.read(channel, before=page.messages[0].seq, limit=_PAGE)
        return head, messages[::-1]

    # --- other processes ---------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Deliver what other processes have kept since the last look, some of it at a time."""
        version, more = self._reads.attempt(self._store.version), None
        if version is not None and version != self._seen:
            self._forget_unheard()
            more = self._reads.attempt(self._catch_up)
            if more is False:
                self._seen = version  # asked before: what came meanwhile has another one
        ended = time.monotonic()
        self._rested = now if more else ended + _REST * (ended - now)
        self._next_look = now if more else max(self._rested, ended + _LOOK)

    def _catch_up(self) -> bool:
        """Deliver a page of each channel that is behind; return whether there is more."""
        more, channels = False, list(self._watched)
        for channel, head in zip(channels, self._store.heads(channels), strict=True):
            known = self._known.get(channel)
            if known is None or known.epoch != head.epoch:
                self._refresh(channel)
            elif known.seq < head.last:
                page = self._store.read(channel, after=known.seq, limit=_PAGE)
                if page.kept.epoch == known.epoch:
                    self._hand(list(self._restored(channel, page)))
                    self._know(channel, _end_of(page))
                more = more or self._known[channel] != Position(page.kept.epoch, page.kept.last)
        self._hand_states(channels)  # read behind the messages: none that these have ended
        return more

    def _hand_states(self, channels: Sequence[str]) -> None:
        """Have the states delivered that are not known here."""
        for channel, states in zip(channels, self._store.states(channels), strict=True):
            known = self._shown.get(channel, {})
            new = {line: text for line, text in states.items() if known.get(line) != text}
            overflow = self._rule_for(channel).overflow
            self._hand([state_of(text, line, channel, overflow) for line, text in new.items()])
            self._shown[channel] = dict(states)
            if not states:
                del self._shown[channel]

    def _changes(self, channel: str, group: Sequence[Publication]) -> dict[int, bytes | None]:
        """Return the newest state of each line that messages are about; None for a finished one."""
        changes: dict[int, bytes | None] = {}
        if any([each.ends_lines for each in group]):  # a hub that was killed may have left some
            (left,) = self._reads.attempt(lambda: self._store.states([channel])) or ({},)
            changes |= dict.fromkeys(left)
        # What a program uses outlasts its lines, of which there may be many.
        lines = any([line != USAGE_LINE for line in self._shown.get(channel, ())])
        if changes or lines or any([each.state for each in group]):
            for each in group:
                changes[each.of_line] = each.text if each.state else None
                if each.ends_lines:
                    changes = dict.fromkeys(changes)
        return changes

    def _note_states(
        self, channel: str, changes: Mapping[int, bytes | None], *, ends: bool
    ) -> None:
        """Note the states that are delivered anyway, as this process has published them."""
        if ends:
            self._shown.pop(channel, None)
        elif changes and (channel in self._shown or any(changes.values())):
            known = self._shown.setdefault(channel, {})
            for line, text in changes.items():
                known.pop(line, None)
                if text is not None:
                    known[line] = text
            if not known:
                del self._shown[channel]

    # --- the hub's queue ---------------------------------------------------------------------

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


class _Access:
    """Reads or writes of the store: after one that has failed, there is none for a moment.

    Each is judged by itself: a disk that is full can be read.

    Args:
        what: is done to history, for the log.
        consequence: what a failure means, for the log.
    """

    def __init__(self, what: str, consequence: str) -> None:
        self._what = what
        self._consequence = consequence
        self._failed = False
        self._retry = 0.0

    def is_failing(self, now: float) -> bool:
        """Return whether none is to be tried."""
        return self._failed and now < self._retry

    def attempt(self, use: Callable[[], T], *, at_once: bool = False) -> T | None:
        """Use the store; None when it fails, or has just failed, unless it is `at_once`."""
        if not at_once and self.is_failing(time.monotonic()):
            return None
        try:
            found = use()
        except Exception as error:  # noqa: BLE001 - a store may be the application's own
            if not self._failed:
                known = isinstance(error, WsHubError)
                logger.error("%s. %s", error, self._consequence, exc_info=None if known else error)
            self._failed, self._retry = True, time.monotonic() + _RETRY
            return None
        if self._failed:
            self._failed = False
            logger.warning("history is %s again", self._what)
        return found


def _end_of(page: Page) -> Position:
    """Return how far a page goes: to its last message where others follow, or to the head."""
    last = page.messages[-1].seq if page.messages else page.kept.last
    return Position(page.kept.epoch, last)


def _is_published(item: Item) -> bool:
    return isinstance(item, (Publication, Publications))


def _each(item: Item) -> Sequence[Publication]:
    if isinstance(item, Publications):
        return item.each
    assert isinstance(item, Publication)
    return (item,)
