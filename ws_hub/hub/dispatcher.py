"""The dispatcher: publications are numbered, kept, joined per target and delivered.

A subscription becomes live here, at its place among the messages: at once, or when what it
missed has been replayed. Everything here runs on the hub thread, which owns it; nothing
here waits.
"""

from __future__ import annotations

import functools
import itertools
import operator
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..config import ChannelRule
from ..connection.fast_send import Reachable, send_to_each
from ..protocol.filters import Filter
from ..protocol.frames import text_frame
from ..protocol.message import Message, MessageType, encode
from ..protocol.presence import with_state
from ..protocol.publication import Batch, Delivery, Publication, channel_of, has_status, skip
from ..protocol.requests import Id, ack
from .callbacks import guarded
from .filtering import Look
from .history import Filled, Position, Range
from .keyed import KeyedCursor, KeyedRange
from .replay import REPLACED, Gap, Replays, Source, Viewer
from .stats import Counters
from .stores import Stores
from .subscriptions import ChannelMap, Group, Subscription

__all__ = ["Activation", "Dispatcher", "Target"]

# Numbers that a client with a filter is told none of, before it is told one: a position that is
# far behind costs a replay when the client comes back, and may be no longer kept.
_FAR = 64


class Target(Reachable, Viewer, Protocol):
    """A receiver of publications: a client or a listener."""

    @property
    def id(self) -> int:
        """The id of the client; 0 for a listener."""

    @property
    def replayable(self) -> bool:
        """Whether kept messages can be sent to it."""

    @property
    def compression(self) -> bool:
        """Whether it takes compressed frames."""

    def deliver(self, batch: Batch) -> Sequence[Publication]:
        """Take a batch of which nothing went straight; return what found no room."""

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        """Take frames that are not publications; False when there is no room."""


@dataclass(frozen=True, slots=True)
class Activation:
    """A subscription's turn to go live, at its place among the messages.

    Args:
        subscription: what goes live.
        since: the position of the subscriber in `epoch`; None when it named none.
        epoch: the numbering that `since` belongs to.
        last: how many of the newest messages it wants.
        id: of the request to be acked, else None.
        since_time: the POSIX time from which on it wants messages.
        filter: which messages it wants; None for all.
    """

    subscription: Subscription[Any]
    since: int | None = None
    epoch: str = ""
    last: int | None = None
    id: Id = None
    since_time: float | None = None
    filter: Filter | None = None

    @property
    def names_position(self) -> bool:
        """Whether it says what it wants of the past."""
        return not (self.since is self.last is self.since_time is None)


class Dispatcher:
    """Delivers publications, and replays what was missed.

    Args:
        channels: the subscriptions.
        stores: what is kept.
        replays: what sends it.
        rule_for: what holds for a channel.
        evict: disconnects a target whose outbox is full and whose rule says so.
        counters: what is counted.
        compression: whether there can be targets that take compressed frames.

    Attributes:
        send_to_each: see `fast_send.send_to_each`, which may be replaced by a ring's.
    """

    def __init__(
        self,
        channels: ChannelMap[Any],
        stores: Stores,
        replays: Replays,
        rule_for: Callable[[str], ChannelRule],
        evict: Callable[[Any], None],
        counters: Counters,
        compression: bool = False,
    ) -> None:
        self._channels = channels
        self._history = stores.history
        self._overflow = stores.overflow
        self._keyed = stores.keyed
        self._replays = replays
        self._rule_for = rule_for
        self._evict = evict
        self._counters = counters
        self._compression = compression
        self.send_to_each: Callable[..., Iterator[Any]] = send_to_each

    def dispatch(
        self, publications: Sequence[Publication], all_clients: Collection[Any], now: float
    ) -> None:
        """Deliver publications, each target's joined and in order.

        `all_clients` does not change meanwhile, also when a client is disconnected. The
        delivery of what a client has published is charged to it.
        """
        payers = [each.payer for each in publications if each.payer is not None]
        if not payers:
            self._deliver(publications, all_clients, now)
            return
        began = time.thread_time()
        self._deliver(publications, all_clients, now)
        seconds = (time.thread_time() - began) / len(publications)
        for payer in payers:
            payer.charge_processing(seconds)

    def dispatch_watched(
        self, publications: Sequence[Publication], all_clients: Collection[Any], now: float
    ) -> Delivery:
        """Deliver publications of one call, alone, and return what that did."""
        channel = publications[0].channel
        everybody = len(all_clients) if channel == "" else self._channels.count(channel)
        reached: list[Any] = []
        missed: list[Any] = []
        self._deliver(publications, all_clients, now, (reached, missed))
        dropped = sum([not (publications[0].waits and each.replayable) for each in missed])
        kept = channel != "" and self._rule_for(channel).numbered
        seq = publications[-1].seq if kept else None
        if seq == 0 and not publications[-1].frame:
            return Delivery(None, everybody, 0, 0)  # it failed, which is logged: nobody has got it
        seq = seq or None  # 0: it was delivered, and its store could not keep it
        return Delivery(seq, everybody, len(reached) - len(missed), dropped)

    def _deliver(
        self,
        publications: Sequence[Publication],
        all_clients: Collection[Any],
        now: float,
        watched: tuple[list[Any], list[Any]] | None = None,
    ) -> None:
        """Deliver publications.

        The targets that get some of `publications`, and those of them with a full outbox, are
        added to the two lists of `watched`.
        """
        runs: list[Share] = []
        channels = 0
        for channel, group in itertools.groupby(publications, key=channel_of):
            numbered = self._number(list(group), now)  # first: it may end what is live
            runs += self._shares(channel, numbered, all_clients)
            channels += 1
        delivered = 0
        routes = _routes(runs, channels == 1, self._compression, self._without_excluded)
        for targets, batch in routes:
            delivered += batch.messages * len(targets)
            late = self._send(targets, batch)
            if watched is not None:
                _watch(watched, publications, targets, batch, late)
            for target, refused in late:
                delivered -= len(refused)
                guarded(self._counters, self._refused, target, refused)
        self._overflow.settle()
        self._counters.add("published", len(publications))
        self._counters.add("delivered", delivered)

    def _send(
        self, targets: Collection[Any], batch: Batch
    ) -> list[tuple[Any, Sequence[Publication]]]:
        """Send a batch; return the targets that have no room for all of it, with the rest."""
        late: list[tuple[Any, Sequence[Publication]]] = []
        begun = functools.partial(_begun, batch, late)
        for target in self.send_to_each(targets, batch.frames, begun):
            refused = guarded(self._counters, target.deliver, batch, default=batch.publications)
            if refused:
                late.append((target, refused))
        return late

    def send(self, targets: Sequence[Any], publication: Publication) -> list[Any]:
        """Send a message of the hub's own that has no number; return the targets without room."""
        refused = [target for target, _ in self._send(targets, Batch([publication]))]
        self._counters.add("dropped", len(refused))
        return refused

    def _shares(
        self, channel: str, run: list[Publication], all_clients: Collection[Any]
    ) -> list[Share]:
        """Return the targets of messages of one channel: each target once, with what it gets."""
        if channel == "":
            return [(all_clients, run)]
        subscriptions, groups = self._channels.listeners(channel)
        if not groups:
            return [([each.subscriber for each in subscriptions if each.live], run)]
        rest = [each.subscriber for each in subscriptions if each.live and each.filter is None]
        return [(rest, run), *self._filtered(channel, run, groups)] if run else []

    def _filtered(
        self,
        channel: str,
        run: list[Publication],
        groups: Sequence[tuple[Group[Any], list[Subscription[Any]]]],
    ) -> Iterator[Share]:
        """Yield the targets with filters, those with equal ones together."""
        look, far = Look(run), self._far(channel)
        for group, members in groups:
            passing = look.passing(group.filter)
            is_told = look.told(group, passing, far)
            if passing:
                yield [each.subscriber for each in members if each.live], passing
            elif is_told:
                told = [each.subscriber for each in members if each.live and each.recovers]
                yield told, [look.skip()]

    def _far(self, channel: str) -> int:
        rule = self._rule_for(channel)
        return min(_FAR, (rule.max_keys if rule.keyed else rule.history_messages) // 2)

    def _number(self, run: list[Publication], now: float) -> list[Publication]:
        """Number and keep the messages of one channel, if it keeps any.

        One that fails is left out, and takes no number; the others go on.
        """
        channel = run[0].channel
        if channel == "" or not self._rule_for(channel).numbered:
            if run[0].waits:
                self._overflow.take(channel, run)
            return run
        if run[0].frame:  # the recorder has numbered it
            keep = self._cache
        else:
            keep = self._keep_keys if run[0].key else self._keep
        kept: list[Publication] = guarded(self._counters, keep, channel, run, now, default=[])
        return kept

    def _cache(self, channel: str, run: list[Publication], now: float) -> list[Publication]:
        """Keep messages for replays that a store has numbered, but for those that it has not."""
        for part in _consecutive([each for each in run if each.seq]):
            frames = [publication.frame for publication in part]
            after = Position(part[0].epoch, part[0].seq - 1)
            ends, begins = part[-1].ends_channel, _start_of(part)
            former = self._history.extend(
                channel, frames, now, ends=ends, after=after, begins=begins
            )
            if former is not None:
                self._begin_anew(channel, former)
        if any(map(_is_state, run)) or self._changes_states(channel, run):
            self._show(channel, run, now)
        return run

    def _show(self, channel: str, run: Sequence[Publication], now: float) -> None:
        """Keep the newest state of each line that may still change, beside the messages."""
        changes: dict[int, bytes | None] = {}
        for each in run:
            changes[each.of_line] = each.frame if each.state else None
            if each.ends_lines:
                changes = dict.fromkeys([*changes, *self._history.states(channel)])
        self._history.show(channel, changes, now)

    def _changes_states(self, channel: str, run: Sequence[Publication]) -> bool:
        """Return whether messages that are no states may replace or end some."""
        if not self._history.has_states(channel):  # nearly always
            return False
        # What a program uses outlasts its lines, of which there may be many.
        return self._history.has_states(channel, of_lines=True) or has_status(run)

    def fill(self, channel: str, filled: Filled, now: float) -> None:
        """Keep what a store has of a channel, for the subscriptions that follow."""
        former = self._history.install(channel, filled, now)
        if former is not None:
            self._begin_anew(channel, former)

    def leave_out(self, channel: str, seq: int) -> None:
        """Have the subscribers of a channel ask for what they miss behind a number.

        It is kept, and what follows here is of later numbers.
        """
        self._history.free(channel)  # a replay would pass over it
        self._begin_anew(channel, Position("", seq))

    def _begin_anew(self, channel: str, former: Position) -> None:
        """Have the subscribers of a channel ask for what follows their position."""
        for subscription in self._channels.subscriptions(channel):
            self._lag(subscription.subscriber, channel, former.seq)

    def _keep_keys(self, channel: str, run: list[Publication], now: float) -> list[Publication]:
        keep, numbered = self._keyed.keep, list[Publication]()
        for publication in run:
            numbered += guarded(self._counters, keep, publication, now, time.time(), default=[])
        return numbered

    def _keep(self, channel: str, run: list[Publication], now: float) -> list[Publication]:
        if any(map(_is_state, run)):
            return self._keep_states(channel, run, now)
        first, numbered = self._history.next_seq(channel), list[Publication]()
        for publication in run:
            if guarded(self._counters, self._give, publication, first + len(numbered)):
                numbered.append(publication)
        if numbered:
            frames = [publication.frame for publication in numbered]
            ends, begins = run[-1].ends_channel, _start_of(numbered)
            self._history.extend(channel, frames, now, ends=ends, begins=begins)
        if self._changes_states(channel, numbered):
            self._show(channel, numbered, now)
        return numbered

    def _keep_states(self, channel: str, run: list[Publication], now: float) -> list[Publication]:
        """Number and keep what is no state; the others are delivered at their places."""
        numbered = list[Publication]()
        for is_state, part in itertools.groupby(run, key=_is_state):
            each = list(part)
            if not is_state:
                numbered += self._keep(channel, each, now)
                continue
            for publication in each:
                publication.leave_unnumbered()
            numbered += each
            self._show(channel, each, now)
        return numbered

    @staticmethod
    def _give(publication: Publication, seq: int) -> bool:
        publication.number(seq)
        return True

    def _without_excluded(
        self, targets: Collection[Any], publications: Sequence[Publication]
    ) -> Iterator[tuple[Collection[Any], list[Publication]]]:
        """Yield the targets that no publication excludes, then each other one with its own."""
        excluded = frozenset[int]().union(*[each.exclude for each in publications])
        yield [each for each in targets if each.id not in excluded], list(publications)
        for target in [each for each in targets if each.id in excluded]:
            own = [
                skip(each, time.time()) if target.id in each.exclude else each
                for each in publications
                if target.id not in each.exclude or self._counts(target, each)
            ]
            yield [target], own

    def _counts(self, target: Any, publication: Publication) -> bool:
        """Return whether a target goes by the numbers of a publication's channel."""
        if not publication.seq:
            return False
        subscription = self._channels.get(target, publication.channel)
        return subscription is not None and subscription.recovers

    def _refused(self, target: Any, refused: Sequence[Publication]) -> None:
        """Act on a full outbox: never in silence, and never twice for one cause."""
        dropped = [each for each in refused if not (each.waits and target.replayable)]
        self._counters.add("dropped", len(dropped))
        for each in dropped:
            target.note_drops(each.channel, 1, "the outbox was full")
        if any(each.overflow == "disconnect" for each in refused):
            self._evict(target)
            return
        for each in refused if len(dropped) < len(refused) else ():
            if each.waits:
                self._fall_behind(target, each)
        told: set[str] = set()
        for each in dropped:
            if each.seq and each.channel not in told:
                told.add(each.channel)
                self._lag(target, each.channel, each.seq - 1)

    def _fall_behind(self, target: Any, publication: Publication) -> None:
        """Let a target have a publication, and what follows in its channel, once it has room."""
        subscription = self._channels.get(target, publication.channel)
        if subscription is None or not subscription.live:
            return
        source: Source
        if publication.key:
            epoch = self._keyed.position(publication.channel).epoch
            source, before = KeyedCursor(self._keyed), Position(epoch, publication.seq - 1)
        else:
            source, before = self._overflow, self._overflow.position(publication)
        self._replays.begin(subscription, before.epoch, before.seq, source, behind=True)

    def _lag(self, target: Any, channel: str, seq: int) -> None:
        """Tell a target where it stopped; it catches up by subscribing from there.

        One that never named a position would not understand, and goes on with a gap.
        """
        subscription = self._channels.get(target, channel)
        if subscription is None or not subscription.live or not subscription.recovers:
            return
        subscription.live = False
        self._notify(target, Message(MessageType.LAGGED, channel=channel, seq=seq))

    def _notify(self, target: Any, message: Message, state: str = "") -> None:
        """Send what must not be lost: a target that waits for it would wait for ever."""
        text = encode(message, time.time())
        if state:
            text = with_state(text, state)
        if not target.offer(text_frame(text), 1, beyond=True):
            self._evict(target)

    def answer_presence(self, target: Any, id: Id, channel: str, state: str) -> None:
        """Answer a request for the presence of a channel; `state` is that, as JSON."""
        self._notify(target, ack(id, {"channel": channel, "presence": None}), state)

    def activate(self, request: Activation, presence: str = "") -> None:
        """Answer a subscription, then let it go live: what it missed, then everything after.

        `presence` is what the channel's subscribers know of it, as JSON; "" where it has none.
        """
        subscription = request.subscription
        target, channel = subscription.subscriber, subscription.channel
        # Before it is answered: a client that has the answer counts.
        if not self._channels.place(subscription):
            # Unsubscribed, or gone, in the meantime. A request is answered all the same.
            self._answer(request, _nothing(False))
            return
        # An `id` or a position is of one that speaks our extensions, and understands `lagged`.
        named = request.names_position or request.id is not None
        subscription.recovers = subscription.recovers or named
        changed = subscription.filter != request.filter
        if changed:
            self._channels.set_filter(subscription, request.filter)
        if not self._rule_for(channel).numbered:
            # Unless its client is behind, and gets what waits for it first.
            subscription.live = self._replays.position(subscription) is None
            self._answer(request, _nothing(not request.since), presence)
            return
        missed = self._missed(request, changed)
        self._answer(request, missed, presence)
        if missed.messages and target.replayable:
            source = None
            if isinstance(missed, KeyedRange):
                source = KeyedCursor(self._keyed, missed.fresh)
            self._replays.begin(
                subscription, missed.position.epoch, missed.after, source, missed=missed
            )
        elif self._replays.position(subscription) != missed.position.seq:
            self._replays.end(subscription)
            if not subscription.live:
                subscription.live = True
                self._replays.show_states(subscription)

    def _missed(self, request: Activation, changed: bool) -> Range:
        """Return what a subscription is to get before it is live.

        Nothing for one that is live, or on its way there, when it asks for what it has
        been sent; it is sent again only to one that names a position, and so says what it
        has of that (FAULTS 117). One whose filter has changed has been sent something else:
        it gets what it asks for, and in a keyed channel another state.
        """
        subscription, since = request.subscription, request.since
        channel = subscription.channel
        reached = self._replays.position(subscription)
        under_way = subscription.live or reached is not None
        rule = self._rule_for(channel)
        if changed and rule.keyed and subscription.after is not None:
            subscription.after = 0
            return replace(self._keyed.locate(channel, since=0), recovered=False)
        timed = request.since_time is not None and not rule.keyed  # keys are not kept by time
        every = rule.replay or rule.keyed
        if since is None and request.last is None and not timed and every:
            since = None if under_way else 0
        if timed and request.since_time is not None and since is None and request.last is None:
            found = self._history.locate_time(channel, request.since_time)
        else:
            store = self._keyed if rule.keyed else self._history
            found = store.locate(channel, since=since, epoch=request.epoch, last=request.last)
        known = subscription.after
        anew = changed and request.names_position
        if under_way and known is not None and not (since or request.epoch or anew):
            if found.after >= known:
                seq = found.position.seq if reached is None else reached
                return Range(Position(found.position.epoch, seq), seq, True)
        if known is None or not under_way or anew:
            known = found.after
        subscription.after = min(known, found.after)
        return found

    def _answer(self, request: Activation, missed: Range, presence: str = "") -> None:
        """Send the ack of a subscription, if one is asked for."""
        if request.id is None:
            return
        data: dict[str, Any] = {"channel": request.subscription.channel}
        position = missed.position
        if position.epoch:
            data |= {"epoch": position.epoch, "seq": position.seq}
        if position.epoch or request.since is not None or request.last is not None:
            data |= {"recovered": missed.recovered, "replayed": missed.messages}
        if self._rule_for(request.subscription.channel).keyed:
            # Numbers of messages that were replaced are missing for a client that was behind.
            data |= {"keyed": True, "sparse": True}
        elif request.filter is not None:
            data["sparse"] = True
        if presence:
            data["presence"] = None
        self._notify(request.subscription.subscriber, ack(request.id, data), presence)

    def replay(self) -> None:
        """Send pieces of replays for a moment."""
        for gap in self._replays.turn():
            self._skip(gap)
        self._overflow.release(self._replays.is_awaited)
        if self._replays.skipped:
            self._counters.add("dropped", self._replays.skipped)
            self._replays.skipped = 0

    def _skip(self, gap: Gap) -> None:
        """Act on messages that a replay came too late for."""
        subscription = gap.subscription
        self._counters.add("dropped", gap.missed)
        subscription.subscriber.count_skipped(gap.missed)
        numbered = self._rule_for(subscription.channel).numbered
        late = "the replay came too late, the history has let them go"
        reason = late if numbered else REPLACED
        subscription.subscriber.note_drops(subscription.channel, gap.missed, reason)
        if not subscription.recovers or not numbered or gap.is_told:
            return  # it goes on behind the gap
        self._replays.end(subscription)
        subscription.live = True
        self._lag(subscription.subscriber, subscription.channel, gap.after)


_is_state = operator.attrgetter("state")
_begins_run = operator.attrgetter("begins_run")


def _start_of(publications: Sequence[Publication]) -> int | None:
    """Return the place of the last one with which a program's run begins; None for none."""
    if not any(map(_begins_run, publications)):  # nearly always
        return None
    return max([place for place, each in enumerate(publications) if each.begins_run])


def _nothing(recovered: bool) -> Range:
    """Return what is missed in a channel that keeps nothing."""
    return Range(Position("", 0), 0, recovered)


def _consecutive(numbered: list[Publication]) -> Iterable[list[Publication]]:
    """Return runs of publications whose numbers, of one epoch, follow each other."""
    if not numbered:
        return ()
    first, last = numbered[0], numbered[-1]
    if last.seq - first.seq + 1 == len(numbered) and first.epoch == last.epoch:  # nearly always
        return (numbered,)
    places = enumerate(numbered)
    runs = itertools.groupby(places, key=lambda at: (at[1].epoch, at[1].seq - at[0]))
    return [[publication for _, publication in run] for _, run in runs]


def _begun(
    batch: Batch, late: list[tuple[Any, Sequence[Publication]]], client: Any, sent: int
) -> None:
    refused = client.begin_locked(batch, sent)  # only a client has a straight way
    if refused:
        late.append((client, refused))  # for when its lock is free


def _watch(
    watched: tuple[list[Any], list[Any]],
    publications: Sequence[Publication],
    targets: Collection[Any],
    batch: Batch,
    late: Sequence[tuple[Any, Sequence[Publication]]],
) -> None:
    """Note the targets that get something of `publications`, and those of them without room.

    Not those that get a number alone, or a deletion in place of a message.
    """
    if not set(map(id, publications)).isdisjoint(map(id, batch.publications)):
        watched[0].extend(targets)
        watched[1].extend([target for target, _ in late])


Share = tuple[Collection[Any], list[Publication]]


def _routes(
    runs: Sequence[Share],
    disjoint: bool,
    compression: bool,
    without_excluded: Callable[..., Iterator[Share]],
) -> Iterator[tuple[Collection[Any], Batch]]:
    """Yield all targets, each once, with what they get, joined and in order.

    Targets with the same channels share one join, or two: plain and compressed. `disjoint`:
    no target is in two of the runs.
    """
    runs = [run for run in runs if run[0]]  # joined only when somebody listens
    disjoint = disjoint or len(runs) == 1  # nearly always: a broadcast, or one channel's burst
    for share in runs if disjoint else _shared(runs):
        excluding = any([each.exclude for each in share[1]])
        for targets, publications in without_excluded(*share) if excluding else (share,):
            if not publications:
                continue
            if compression and any([each.compressed is not each.frame for each in publications]):
                compressing = [target for target in targets if target.compression]
                if compressing:
                    yield compressing, Batch(publications, compressed=True)
                    targets = [target for target in targets if not target.compression]
            if targets:
                yield targets, Batch(publications)


def _shared(runs: Sequence[Share]) -> Iterator[Share]:
    routes: dict[Any, list[int]] = {}
    for index, (targets, _) in enumerate(runs):
        for target in targets:
            routes.setdefault(target, []).append(index)
    alike: dict[tuple[int, ...], list[Any]] = {}
    for target, indices in routes.items():
        alike.setdefault(tuple(indices), []).append(target)
    for key, targets in alike.items():
        yield targets, [each for index in key for each in runs[index][1]]
