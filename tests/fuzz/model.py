"""A hub and a model of it so simple that it is right: what the one does, the other says.

Hypothesis chooses what happens, several threads do it at once, and the model is asked
what each client must have got by then. The rules of the model:

- a channel has one order, in which each publisher's messages keep theirs; so has what is
  broadcast. A witness, who listens to everything and reads all, says which order it is;
- a client gets a piece of that order without a hole: from where it began to listen, to now
  or to where it ceased;
- what is broadcast has its place among the messages of a channel, the same for everybody;
- in a channel that keeps history the piece begins where the client asks it to;
- who does not read misses what is counted as dropped, or is told where it has to go on.

What is sent before a subscription's ack was dispatched before it: an ack is the barrier
after which the model is asked, but for a replay that has not reached its end by then: the
kept messages go on to the last.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.support import TIMEOUT, RawPeer, reset, small_pair, wait_until
from ws_hub import ChannelRule, Hub, HubConfig, Message
from ws_hub.testing import assert_no_leaks

__all__ = ["HubMachine"]

PLAIN, KEPT, ALL = "plain", "kept", ""
OUTBOX = 64  # messages: more than come between two barriers, but in a flood
BURST = 10  # messages of one publisher
REPLAY = 10  # messages at most, but after a flood
FLOOD = 200
MOST = 5  # clients at a time

CONFIG = HubConfig(
    rules=[ChannelRule(pattern=KEPT, history_messages=1_000_000)],
    outbox_messages=OUTBOX,
    broadcast_overflow="drop",
    pace_bytes=None,  # its peers read by turns: a publisher that waits for one waits for ever
)


class Peer:
    """A client's far end, and what the model expects of it."""

    def __init__(self, hub: Hub, name: int, stack: contextlib.ExitStack) -> None:
        near, far = stack.enter_context(small_pair())
        self.name = name
        address = f"model:{name}"
        hub.connect(near, remote_address=address).start()
        (self.client,) = wait_until(
            lambda: [each for each in hub.all_clients() if each.remote_address == address]
        )
        self.raw = RawPeer.on(far)
        self.next: dict[str, int | None] = {}  # channel -> place of its next message; None: any
        self.since = 0  # where it last asked a replay to begin, in a storm
        self.ceased: set[str] = set()  # channels that it left while they were published to
        self._ids = itertools.count()

    def ask(self, kind: str, channel: str, **fields: Any) -> int:
        number = next(self._ids)
        self.raw.send_json({"type": kind, "channel": channel, "id": number, **fields})
        return number

    def until(self, number: int) -> tuple[list[Any], Any]:
        """Read up to the answer to a request: what came before it, and its data."""
        found = []
        while True:
            message = self.raw.recv_json()
            if message.get("id") == number:
                assert message["type"] == "ack", message
                return found, message["data"]
            found.append(message)


class HubMachine(RuleBasedStateMachine):
    """What may happen to a hub, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(assert_no_leaks(TIMEOUT))
        self.hub = self.stack.enter_context(Hub(CONFIG))
        self.order: dict[str, list[Any]] = {PLAIN: [], KEPT: [], ALL: []}
        self.rank: dict[int, int] = {}  # a message's number -> its place among all
        self.numbers = itertools.count()
        self.epoch = ""
        self.peers: list[Peer] = []

    @initialize()
    def witness_everything(self) -> None:
        self.witness = self.join()
        for channel in (PLAIN, KEPT):
            _, data = self.witness.until(self.witness.ask("subscribe", channel))
            self.witness.next[channel] = 0
            self.epoch = data.get("epoch", self.epoch)

    def teardown(self) -> None:
        try:
            self.settle()
            for peer in self.peers:
                peer.raw.sock.close()
            wait_until(lambda: not self.hub.all_clients())
            assert not self.hub.all_channels()
        finally:
            self.stack.close()

    # --- one at a time ---------------------------------------------------------------------

    def join(self) -> Peer:
        peer = Peer(self.hub, next(self.numbers), self.stack)
        peer.next[ALL] = len(self.order[ALL])
        self.peers.append(peer)
        return peer

    @precondition(lambda self: len(self.peers) < MOST)
    @rule()
    def come(self) -> None:
        self.join()

    @precondition(lambda self: len(self.peers) > 1)
    @rule(data=st.data(), how=st.sampled_from(["close", "fin", "reset"]))
    def go(self, data: st.DataObject, how: str) -> None:
        peer = self.some(data)
        self.leave(peer, how)
        wait_until(lambda: peer.client not in self.hub.all_clients())
        assert peer.client.subscriptions() == []

    @precondition(lambda self: len(self.peers) > 1)
    @rule(data=st.data(), channel=st.sampled_from([PLAIN, KEPT]), replay=st.integers(-1, REPLAY))
    def subscribe(self, data: st.DataObject, channel: str, replay: int) -> None:
        peer = self.some(data)
        if replay < 0 or channel is PLAIN:  # from now on; again is no change
            before, _ = peer.until(peer.ask("subscribe", channel))
            self.check(peer, before)
            peer.next.setdefault(channel, len(self.order[channel]))
            return
        since = max(0, len(self.order[KEPT]) - replay)
        before, answer = peer.until(peer.ask("subscribe", KEPT, since=since, epoch=self.epoch))
        self.check(peer, before)
        assert answer["recovered"] and answer["replayed"] == len(self.order[KEPT]) - since
        peer.next[KEPT] = since

    @precondition(lambda self: len(self.peers) > 1)
    @rule(data=st.data(), channel=st.sampled_from([PLAIN, KEPT]))
    def unsubscribe(self, data: st.DataObject, channel: str) -> None:
        peer = self.some(data)
        before, _ = peer.until(peer.ask("unsubscribe", channel))
        self.check(peer, before)
        peer.next.pop(channel, None)

    # --- several threads at once -----------------------------------------------------------

    @rule(
        data=st.data(),
        bursts=st.lists(
            st.tuples(st.sampled_from([PLAIN, KEPT, ALL]), st.integers(1, BURST)),
            min_size=1,
            max_size=3,
        ),
        beside=st.sampled_from(["nothing", "come", "go", "kept", "plain", "cease"]),
    )
    def storm(self, data: st.DataObject, bursts: list[tuple[str, int]], beside: str) -> None:
        """Publish from several threads while a client comes, goes, or changes its mind."""
        self.settle()
        acts: list[Callable[[], object]] = [
            lambda burst=burst: self.publish(*burst)  # type: ignore[misc]
            for burst in bursts
        ]
        came: list[Peer] = []
        if beside == "come":
            acts.append(lambda: came.append(Peer(self.hub, next(self.numbers), self.stack)))
        elif beside != "nothing" and len(self.peers) > 1:
            acts.append(self.change(self.some(data), beside))
        together(*acts)
        for peer in came:
            peer.next[ALL] = None
            self.peers.append(peer)
        self.settle()

    def change(self, peer: Peer, how: str) -> Callable[[], object]:
        """Return what a client does while others publish; the model expects it from now."""
        if how == "go":
            return lambda: self.leave(peer, "reset")
        if how == "cease":
            peer.ceased |= peer.next.keys() & {PLAIN, KEPT}
            return lambda: [peer.ask("unsubscribe", each) for each in peer.ceased]
        if how == "kept":
            since = peer.since = max(0, len(self.order[KEPT]) - REPLAY)
            peer.next.setdefault(KEPT, since)  # who listens already goes on until the ack
            return lambda: peer.ask("subscribe", KEPT, since=since, epoch=self.epoch)
        peer.next.setdefault(PLAIN, None)
        return lambda: peer.ask("subscribe", PLAIN)

    @precondition(lambda self: len(self.peers) > 1)
    @rule(data=st.data(), channel=st.sampled_from([PLAIN, KEPT, ALL]))
    def flood(self, data: st.DataObject, channel: str) -> None:
        """Publish more than fits a client that does not read."""
        self.settle()
        sleeper = self.some(data)
        if channel not in sleeper.next:
            _, _ = sleeper.until(sleeper.ask("subscribe", channel))
            sleeper.next[channel] = len(self.order[channel])
        dropped, begin = sleeper.client.dropped, len(self.order[channel])
        for _ in range(0, FLOOD, BURST):
            self.publish(channel, BURST)
            self.settle(but=sleeper)
        got = self.awaken(sleeper)
        news = [each for each in got if each["type"] == "event"]
        missing = sleeper.client.dropped - dropped
        if channel is not KEPT or not missing:
            assert len(news) + missing == FLOOD
        everything = iter(self.order[channel][begin:])
        assert all(each["data"] in everything for each in news)  # in order
        sleeper.next[channel] = len(self.order[channel])
        lagged = [each for each in got if each["type"] == "lagged"]
        if channel == KEPT and missing:
            (notice,) = lagged
            assert notice["seq"] == begin + len(news)
            self.resume(sleeper, notice["seq"])
        else:
            assert not lagged

    def awaken(self, sleeper: Peer) -> list[Any]:
        """Have it read again: what waits first, or there were no room for an answer."""
        got = []
        while sleeper.client.waiting[0]:
            got.append(sleeper.raw.recv_json())
        return got + self.barrier(sleeper)

    def resume(self, peer: Peer, seq: int) -> None:
        number = peer.ask("subscribe", KEPT, since=seq, epoch=self.epoch)
        before, answer = peer.until(number)
        assert not before and answer["recovered"]
        peer.next[KEPT] = seq
        self.check_up(peer)

    # --- what all of them do ---------------------------------------------------------------

    def some(self, data: st.DataObject) -> Peer:
        """Any client but the witness."""
        return data.draw(st.sampled_from(self.peers[1:]), label="client")

    def leave(self, peer: Peer, how: str) -> None:
        self.peers.remove(peer)
        if how == "reset":
            reset(peer.raw.sock)
            return
        if how == "close":
            peer.raw.send_close()
            peer.raw.recv_close()
        peer.raw.sock.close()

    def publish(self, channel: str, count: int) -> None:
        publisher = threading.get_ident()
        for _ in range(count):
            message = Message("event", data=[publisher, next(self.numbers)])
            if channel is ALL:
                self.hub.broadcast(message)
            else:
                self.hub.send_to_channel(channel, message)

    def settle(self, but: Peer | None = None) -> None:
        """Ask every client what it has got; the witness first, who says what there was."""
        for peer in self.peers:
            if peer is not but:
                self.check_up(peer)

    def check_up(self, peer: Peer) -> None:
        got = self.barrier(peer)
        if peer is self.peers[0]:
            self.learn(got)
        self.check(peer, got)
        while KEPT in peer.next.keys() - peer.ceased and peer.next[KEPT] < len(self.order[KEPT]):
            self.check(peer, [peer.raw.recv_json()])
        for channel in peer.ceased:
            peer.next.pop(channel, None)
        peer.ceased = set()
        for channel, place in peer.next.items():
            # No message since it began to listen, wherever that was, is no hole either.
            assert place in (None, len(self.order[channel])), (channel, place)
            peer.next[channel] = len(self.order[channel])

    def barrier(self, peer: Peer) -> list[Any]:
        """Return what a client got of all that has been published by now."""
        got, _ = peer.until(peer.ask("subscribe", f"barrier-{peer.name}"))
        return got

    def learn(self, got: list[Any]) -> None:
        """Take the order from the witness; each publisher's own must be in it."""
        for message in got:
            self.order[message.get("channel", ALL)].append(message["data"])
            self.rank[message["data"][1]] = len(self.rank)
        for channel in self.order:
            mine: dict[int, int] = {}
            for publisher, number in self.order[channel]:
                assert mine.get(publisher, -1) < number
                mine[publisher] = number

    def check(self, peer: Peer, got: list[Any]) -> None:
        """Compare what a client got with what the model says."""
        last = -1
        for message in got:
            if message["type"] == "ack":  # of what it asked for in a storm
                if "replayed" in message["data"]:
                    assert message["data"]["seq"] - message["data"]["replayed"] == peer.since
                    peer.next[KEPT] = peer.since
                continue
            if message["type"] == "lagged" and message["channel"].startswith("barrier"):
                continue  # the barrier came behind a long replay: it is answered all the same
            assert message["type"] == "event", message
            channel = message.get("channel", ALL)
            place = peer.next[channel]
            if place is None:  # where it began to listen, this message says
                place = self.order[channel].index(message["data"])
            assert self.order[channel][place] == message["data"]
            if channel == KEPT:
                assert message["seq"] == place + 1
            else:  # a replay takes the others out of their order
                assert self.rank[message["data"][1]] > last
                last = self.rank[message["data"][1]]
            peer.next[channel] = place + 1


def together(*acts: Callable[[], object]) -> None:
    """Do all of it at once, each on a thread of its own; raise what one of them raised."""
    start = threading.Barrier(len(acts))
    failed: list[BaseException] = []

    def run(act: Callable[[], object]) -> None:
        try:
            start.wait(TIMEOUT)
            act()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    threads = [threading.Thread(target=run, args=(act,), name="model") for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)
    if failed:
        raise failed[0]
