"""The state of a keyed channel in a client: acks and messages in, no connection."""

from __future__ import annotations

from typing import Any

from ws_hub.protocol.message import Message
from ws_hub.reconnect.subscriptions import Start, Subscriptions, Verdict


class Keyed:
    """A client that has subscribed to the channel "board"."""

    def __init__(self) -> None:
        self.subscriptions = Subscriptions()
        self.subscriptions.extensions = True
        (self.request,) = self.subscriptions.add("board", Start())

    def ack(self, seq: int, replayed: int, *, recovered: bool = True, epoch: str = "e") -> Verdict:
        data = {
            "channel": "board", "epoch": epoch, "seq": seq, "recovered": recovered,
            "replayed": replayed, "keyed": True, "sparse": True,
        }  # fmt: skip
        return self.subscriptions.take(Message("ack", id=self.request.id, data=data))

    def reconnect(self) -> None:
        self.request = self.subscriptions.open()[-1]

    def take(self, seq: int, key: str, data: Any) -> Verdict:
        message = Message("value", channel="board", seq=seq, key=key, data=data)
        return self.subscriptions.take(message)

    @property
    def state(self) -> dict[str, Any]:
        return {key: each.data for key, each in self.subscriptions.snapshot("board").items()}


def test_state_is_the_newest_of_each_key_without_what_was_deleted() -> None:
    keyed = Keyed()
    keyed.ack(7, 2)
    for seq, key, data in [(3, "a", 1), (7, "b", 2), (8, "a", 3), (9, "b", None)]:
        assert keyed.take(seq, key, data).deliver
    assert keyed.state == {"a": 3}
    assert keyed.subscriptions.snapshot("another") == {}


def test_hole_in_a_sparse_subscription_is_no_gap() -> None:
    keyed = Keyed()
    keyed.ack(1, 1)
    keyed.take(1, "a", 1)
    verdict = keyed.take(9, "a", 2)
    assert (verdict.deliver, verdict.send, verdict.lost) == (True, [], [])
    keyed.reconnect()
    assert (keyed.request.since, keyed.request.epoch) == (9, "e")


def test_state_goes_on_from_a_position_that_is_known() -> None:
    keyed = Keyed()
    keyed.ack(2, 2)
    keyed.take(1, "a", 1)
    keyed.take(2, "b", 2)
    keyed.reconnect()
    assert keyed.ack(5, 1).lost == []
    keyed.take(5, "b", None)
    assert keyed.state == {"a": 1}


def test_state_begins_anew_and_says_so_when_the_position_is_not_known() -> None:
    for epoch in ("e", "another"):
        keyed = Keyed()
        keyed.ack(4, 2)
        keyed.take(3, "a", 1)
        keyed.take(4, "b", 2)
        keyed.reconnect()
        (lost,) = keyed.ack(20, 1, recovered=False, epoch=epoch).lost
        assert (lost.channel, lost.count, lost.why) == ("board", None, "the present state follows")
        assert keyed.state == {}
        assert keyed.take(3, "a", 1).deliver  # unchanged, and yet it is told again
        assert keyed.state == {"a": 1}
        assert keyed.take(21, "c", 1).deliver


def test_what_is_published_in_a_gone_state_is_not_mixed_in() -> None:
    keyed = Keyed()
    keyed.ack(4, 0)
    keyed.reconnect()
    assert not keyed.take(5, "a", 1).deliver  # before the answer: it is sent again
    assert keyed.state == {}
