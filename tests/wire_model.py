"""A hub without sockets, and what a client of any language must make of it at any interleaving.

Must not import ws_hub. `ModelHub` answers as docs/protocol.md says, one message at a time;
what is on its way in either direction stays there until the driver moves it. `Trial` moves
everything in a random order that a seed repeats, and checks what the client hands on:

- each message of a channel at most once, in the order in which it was published, and only
  while the channel is subscribed;
- what is kept at the end, or was numbered and could not be, has been handed on, or as many were
  reported lost;
- a message that is published last of all arrives.
"""

from __future__ import annotations

import json
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Client", "ModelHub", "Outcome", "Trial"]

Json = dict[str, Any]


@dataclass
class _Log:
    epoch: int = 1
    seq: int = 0
    kept: dict[int, int] = field(default_factory=dict)  # seq → number of the publication
    failed: dict[int, int] = field(default_factory=dict)  # what could not be kept, the same way
    unnumbered: list[int] = field(default_factory=list)  # of those the newest, until one is kept


class ModelHub:
    """Channels that keep history, and one connection to them.

    Args:
        keep: messages kept of a channel.
        replays_live: whether a subscription that is live gets a replay when asked again.
        go: a Go hub: no answers, no numbers, no history.
    """

    def __init__(self, keep: int, *, replays_live: bool = True, go: bool = False) -> None:
        self.busy = False  # the next subscription is refused for now
        self.cut: int | None = None  # so many messages of the next replay find room
        self._keep = keep
        self._replays_live = replays_live
        self.go = go
        self._logs: dict[str, _Log] = {}
        self._live: dict[str, bool] = {}
        self._published = 0
        self.inbound: deque[Json] = deque()
        self.outbound: deque[Json] = deque()

    def connect(self) -> None:
        """Begin a new connection: what was on its way is gone."""
        self.inbound.clear()
        self.outbound.clear()
        self._live.clear()

    def kept(self, channel: str) -> list[int]:
        return list(self._log(channel).kept.values())

    def failed(self, channel: str) -> list[int]:
        return list(self._log(channel).failed.values())

    def _log(self, channel: str) -> _Log:
        return self._logs.setdefault(channel, _Log())

    # --- what happens to it ----------------------------------------------------------------

    def publish(self, channel: str, *, lagging: bool = False) -> int:
        """Publish one message; `lagging`: the connection has no room for it."""
        log = self._log(channel)
        self._published += 1
        before = log.seq
        for number in log.unnumbered:
            log.seq += 1
            log.failed[log.seq] = number
        log.unnumbered.clear()
        log.seq += 1
        log.kept[log.seq] = self._published
        while len(log.kept) > self._keep:
            del log.kept[next(iter(log.kept))]
        if self._live.get(channel):
            if lagging and not self.go:
                self._live[channel] = False
                self._say({"type": "lagged", "channel": channel, "seq": before})
            else:
                self._say(self._message(channel, log.seq, self._published))
        return self._published

    def publish_state(self, channel: str) -> None:
        """Publish what is not kept and has no number."""
        self._published += 1
        if self._live.get(channel):
            self._say({"type": "event", "channel": channel, "data": self._published})

    def fail(self, channel: str) -> int:
        """Publish what cannot be kept: it comes without a number, which is left out later."""
        self._published += 1
        self._log(channel).unnumbered.append(self._published)
        if self._live.get(channel):
            self._say({"type": "event", "channel": channel, "data": self._published})
        return self._published

    def replace(self, channel: str, chance: random.Random) -> None:
        """Forget a message that a newer one has replaced: a hole in the next replay."""
        kept = self._log(channel).kept
        if len(kept) > 1:
            del kept[chance.choice(list(kept)[:-1])]

    def renumber(self, channel: str) -> None:
        """Begin the numbering again, under those who listen and are told nothing.

        Once a message at least has been numbered: otherwise no number falls.
        """
        log = self._log(channel)
        if log.seq:
            self._logs[channel] = _Log(log.epoch + 1)

    # --- what it answers -------------------------------------------------------------------

    def work(self) -> None:
        """Carry out the oldest request."""
        request = self.inbound.popleft()
        kind, channel, id = request["type"], request.get("channel", ""), request.get("id")
        if kind == "ping":
            self._say({"type": "pong"} if self.go or id is None else {"type": "pong", "id": id})
        elif kind == "unsubscribe":
            self._live.pop(channel, None)
            if id is not None and not self.go:
                self._say({"type": "ack", "id": id, "data": {"channel": channel}})
        elif kind == "subscribe" and self.busy and not self.go:
            self.busy = False
            self._say({"type": "error", "id": id, "channel": channel, "code": "internal"})
        elif kind == "subscribe":
            replayed = self._subscribe(request, channel)
            cut, self.cut = self.cut, None
            self._live[channel] = True
            if self.go:
                return
            for seq in replayed[:cut]:
                self._say(self._message(channel, seq, self._log(channel).kept[seq]))
            if cut is not None and cut < len(replayed):
                self._live[channel] = False
                reached = replayed[cut - 1] if cut else replayed[0] - 1
                self._say({"type": "lagged", "channel": channel, "seq": reached})

    def _subscribe(self, request: Json, channel: str) -> list[int]:
        log, since, epoch = self._log(channel), request.get("since"), request.get("epoch", "")
        kept, recovered = list(log.kept), True
        if self._live.get(channel) and not self._replays_live:
            kept = []
        elif "last" in request:
            kept = kept[len(kept) - min(request["last"], len(kept)) :]
        elif since is None:
            kept = []
        elif (epoch and epoch != f"e{log.epoch}") or since > log.seq:
            recovered = False
        elif since or epoch:
            recovered = not kept or since >= kept[0] - 1
            kept = [seq for seq in kept if seq > since]
        begin = since if since and recovered else kept[0] if kept else log.seq
        recovered = recovered and not any(seq > begin for seq in log.failed)
        if "id" in request and not self.go:
            data = {"channel": channel, "epoch": f"e{log.epoch}", "seq": log.seq}
            data |= {"recovered": recovered, "replayed": len(kept)}
            self._say({"type": "ack", "id": request["id"], "data": data})
        return kept

    def _message(self, channel: str, seq: int, number: int) -> Json:
        message: Json = {"type": "event", "channel": channel, "data": number}
        return message if self.go else message | {"seq": seq}

    def _say(self, message: Json) -> None:
        self.outbound.append(message)


@dataclass
class Outcome:
    """What a client did about one thing that happened to it."""

    sent: list[Json] = field(default_factory=list)
    messages: list[Json] = field(default_factory=list)  # handed on to the application
    lost: list[tuple[str, int | None]] = field(default_factory=list)  # None: cannot be known


class Client(Protocol):
    """A client without sockets."""

    def subscribe(self, channel: str, position: Json) -> Outcome: ...

    def unsubscribe(self, channel: str) -> Outcome: ...

    def connect(self) -> Outcome:
        """Have a new connection."""

    def receive(self, messages: list[Json]) -> Outcome:
        """Have the messages of one frame."""

    def relieve(self) -> Outcome:
        """Have room again, after messages that had none, and time has passed."""


@dataclass
class _Subscription:
    position: Json
    got: list[int] = field(default_factory=list)
    lost: float = 0  # infinite when the number is not known


class Trial:
    """One client and one model hub, driven by a seed."""

    CHANNELS = ("a", "b")

    def __init__(self, seed: int, client: Client, *, go: bool = False, holes: bool = True) -> None:
        self.chance = random.Random(seed)
        keep = self.chance.choice([3, 10, 1000])
        self.hub = ModelHub(keep, replays_live=self.chance.random() < 0.5, go=go)
        self.client = client
        self._holes = holes and not go and self.chance.random() < 0.5
        self._subscribed: dict[str, _Subscription] = {}
        self._history: list[str] = []

    def run(self, steps: int = 120) -> None:
        try:
            self._connect()
            for _ in range(steps):
                self._step()
            self._finish()
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self._history[-60:]])) from None

    # --- what may happen -------------------------------------------------------------------

    def _step(self) -> None:
        what, channel = self.chance.random(), self.chance.choice(self.CHANNELS)
        if what < 0.30:
            self._note("publish", channel, self.hub.publish(channel))
        elif what < 0.33:
            self._note("lag", channel, self.hub.publish(channel, lagging=True))
        elif what < 0.36:
            self._note("state", channel)
            self.hub.publish_state(channel)
        elif what < 0.39 and self._holes:
            self._note("replace", channel)
            self.hub.replace(channel, self.chance)
        elif what < 0.42:
            self._note("fail", channel, self.hub.fail(channel))
        elif what < 0.52:
            self._toggle(channel)
        elif what < 0.68:
            self.hub.busy = self.chance.random() < 0.1
            self.hub.cut = self.chance.randrange(3) if self.chance.random() < 0.1 else None
            for _ in range(min(self.chance.randrange(4), len(self.hub.inbound))):
                self.hub.work()
        elif what < 0.90:
            self._read(self.chance.randrange(6))
        elif what < 0.94:
            self._note("relieve")
            self._seen(self.client.relieve())
        elif what < 0.97:
            self._connect()
        elif self._holes:  # a numbering may begin again where counts need not agree
            self._note("renumber", channel)
            self.hub.renumber(channel)

    def _toggle(self, channel: str) -> None:
        if channel in self._subscribed:
            self._note("unsubscribe", channel)
            del self._subscribed[channel]
            self._seen(self.client.unsubscribe(channel))
            if self.chance.random() < 0.5:
                return
        position = self.chance.choice([{"since": 0}, {"since": 0}, {}, {"last": 2}])
        self._note("subscribe", channel, position)
        self._subscribed[channel] = _Subscription(position)
        self._seen(self.client.subscribe(channel, position))

    def _connect(self) -> None:
        self._note("connect")
        self.hub.connect()
        self._seen(self.client.connect())

    def _read(self, most: int) -> None:
        out = self.hub.outbound
        frame = [out.popleft() for _ in range(min(most, len(out)))]
        if frame:
            self._note("read", *frame)
            self._seen(self.client.receive(frame))

    def _note(self, *what: object) -> None:
        self._history.append(" ".join(map(str, what)))

    # --- what must hold --------------------------------------------------------------------

    def _seen(self, outcome: Outcome) -> None:
        for request in outcome.sent:
            self._note("  sent", json.dumps(request))
            self.hub.inbound.append(request)
        for channel, count in outcome.lost:
            self._note("  lost", channel, count)
            for name, found in self._subscribed.items():
                if channel in ("", name):
                    found.lost += float("inf") if count is None else count
        for message in outcome.messages:
            if not isinstance(message.get("data"), int):
                continue  # a notice or an error
            self._note("  got", message)
            subscription = self._subscribed.get(message["channel"])
            assert subscription is not None, f"a leftover: {message}"
            last = subscription.got[-1] if subscription.got else 0
            assert message["data"] > last, f"twice, or out of order: {message} after {last}"
            subscription.got.append(message["data"])

    def _settle(self) -> None:
        self.hub.busy, self.hub.cut = False, None
        for _ in range(1000):
            while self.hub.inbound:
                self.hub.work()
            self._read(1000)
            self._note("relieve")
            self._seen(self.client.relieve())
            if not self.hub.inbound and not self.hub.outbound:
                return
        raise AssertionError("they never come to rest")

    def _finish(self) -> None:
        self._settle()
        self._connect()
        self._settle()
        for channel, subscription in self._subscribed.items():
            if subscription.position == {"since": 0} and not self.hub.go:
                first = min(subscription.got, default=0)
                failed = [each for each in self.hub.failed(channel) if each > first > 0]
                missing = {*self.hub.kept(channel), *failed} - set(subscription.got)
                assert len(missing) <= subscription.lost, f"never came: {channel} {missing}"
        # No message had room for once, and none is lost any more.
        self.client.relieve()
        for channel, subscription in self._subscribed.items():
            number = self.hub.publish(channel)
            self._note("publish", channel, number)
            self._settle()
            assert subscription.got[-1:] == [number], f"{channel} is dead"
