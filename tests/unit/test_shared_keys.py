"""The keyed channels of several processes, over a bus that delays and loses what a test says."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ws_hub import ChannelRule, Message
from ws_hub.backplane.bus import Notice, NoticeKind
from ws_hub.hub.keyed import KeyedStore
from ws_hub.hub.shared_keys import SharedKeys
from ws_hub.protocol.message import decode, encode
from ws_hub.protocol.publication import Publication, Stamp, publish


def made(key: str, data: Any) -> Publication:
    text = encode(Message("event", channel="state", key=key, data=data), 0.0)
    found = publish(text, "state", "drop", to_be_numbered=True)
    found.key, found.deletes = key, data is None
    return found


class Process:
    """One process; what it tells is in `told` until a test takes it."""

    def __init__(self, clock: float = 1000.0, most: int = 2000) -> None:
        self.clock = clock
        self.told: list[Notice] = []
        rule = ChannelRule("state", keyed=True, max_keys=most)
        self.store = KeyedStore(lambda channel: rule, lambda channel: False, 1 << 30, 1 << 30)
        self.shared = SharedKeys(self.store, self.told.append, lambda: None)
        self.shared.turn(0.0)
        assert [each.kind for each in self.taken()] == [NoticeKind.KEYS]

    def taken(self) -> list[Notice]:
        told, self.told[:] = list(self.told), []
        return told

    def set(self, key: str, data: Any) -> None:
        assert self.store.keep(made(key, data), 0.0, self.clock)

    def hear(self, notice: Notice) -> bool:
        """Take what another process tells; say whether it was news."""
        if notice.kind is NoticeKind.KEYS:
            self.shared.asked()
            return True
        found = publish(notice.texts[0], notice.name, "drop", to_be_numbered=True)
        found.key, found.deletes = notice.key, notice.deletes
        found.stamp = Stamp(notice.time, notice.origin)
        return bool(self.store.keep(found, 0.0, self.clock))

    def answer(self, now: float) -> list[list[Notice]]:
        """Return what it tells when it is asked for all keys, by turns."""
        self.shared.asked()
        found = []
        while (due := self.shared.next_turn()) < float("inf"):
            now = max(now, due)
            self.shared.turn(now)
            if told := self.taken():
                found.append(told)
        return found

    @property
    def keys(self) -> dict[str, Any]:
        found = {}
        for channel, key in self.store.all_keys():
            newest = self.store.newest(channel, key)
            assert newest is not None
            text, deletes, _ = newest
            message = decode(text.decode())
            assert message.seq is None and message.key == key
            if not deletes:
                found[key] = message.data
        return found


def test_a_change_is_told_without_its_number_and_kept_once() -> None:
    a, b = Process(), Process()
    a.set("x", 1)
    (notice,) = a.taken()
    assert b"seq" not in notice.texts[0]
    assert b.hear(notice)
    assert not b.hear(notice)
    assert b.keys == {"x": 1}
    assert b.taken() == []  # it is told by the process that made it


def test_the_newest_change_wins_in_any_order() -> None:
    a, b = Process(1000.0), Process(1000.0)
    a.set("x", "old")
    (old,) = a.taken()
    b.hear(old)
    b.set("x", "new")
    (new,) = b.taken()
    late = Process()
    assert late.hear(new)
    assert not late.hear(old)
    assert a.hear(new)
    assert a.keys == b.keys == late.keys == {"x": "new"}


def test_a_clock_that_is_behind_does_not_lose_what_is_changed_later() -> None:
    ahead, behind = Process(5000.0), Process(1000.0)
    ahead.set("x", 1)
    ahead.set("y", 1)
    for notice in ahead.taken():
        behind.hear(notice)
    behind.set("x", 2)
    behind.set("y", None)
    for notice in behind.taken():
        assert ahead.hear(notice)
    assert ahead.keys == behind.keys == {"x": 2}


def test_a_deletion_is_remembered_against_what_comes_late() -> None:
    a, b = Process(), Process()
    a.set("x", 1)
    (late,) = a.taken()
    a.set("x", None)
    (deletion,) = a.taken()
    assert b.hear(deletion)
    assert not b.hear(late)
    assert b.keys == {}


@pytest.mark.parametrize("seed", range(10))
def test_what_is_too_much_is_deleted_by_age_everywhere(seed: int) -> None:
    """Not by the order in which it came: each would delete what the other has just made."""
    rng = random.Random(seed)
    a, b = Process(most=20), Process(most=20)
    for number in range(20):
        for process in rng.sample([a, b], 2):
            process.clock += 0.001
            process.set(f"{'a' if process is a else 'b'}{number}", number)
    told = [(b, each) for each in a.taken()], [(a, each) for each in b.taken()]
    for receiver, notice in rng.sample([*told[0], *told[1]], 40):
        receiver.hear(notice)
    assert a.keys == b.keys
    assert sorted(a.keys.values()) == sorted([*range(10, 20)] * 2)
    for notice in [each for turn in b.answer(50.0) for each in turn]:
        a.hear(notice)
    assert a.keys == b.keys


def test_all_keys_are_told_in_pieces() -> None:
    a, b = Process(), Process()
    for number in range(1000):
        a.set(str(number), "x" * 1000)
    a.set("7", None)
    a.taken()
    turns = a.answer(10.0)
    assert len(turns) > 3
    for notice in [each for turn in turns for each in turn]:
        b.hear(notice)
    assert len(a.keys) == 999
    assert b.keys == a.keys
    assert a.answer(20.0) != []  # as often as it is asked
    assert a.shared.next_turn() == float("inf")


def test_what_was_lost_is_asked_for_and_not_at_each_loss() -> None:
    a = Process()
    for _ in range(3):
        a.shared.missed()
        a.shared.turn(100.0)
    assert [each.kind for each in a.taken()] == [NoticeKind.KEYS]
    assert a.shared.next_turn() == 105.0


@pytest.mark.parametrize("seed", range(30))
def test_all_agree_in_the_end(seed: int) -> None:
    """Changes of a few keys, by clocks that differ, told late, out of order, or never."""
    rng = random.Random(seed)
    processes = [Process(1000.0 + 100.0 * number) for number in range(4)]
    waiting: list[tuple[Process, Notice]] = []
    for turn in range(400):
        process = rng.choice(processes)
        process.clock += rng.choice([0.0, 0.001, -0.001])
        process.set(rng.choice("abcde"), None if rng.random() < 0.2 else turn)
        waiting += [(o, n) for n in process.taken() for o in processes if o is not process]
        for _ in range(rng.randrange(8)):
            if waiting:
                receiver, notice = waiting.pop(rng.randrange(len(waiting)))
                if rng.random() < 0.8:
                    receiver.hear(notice)
    for process in processes:
        for notice in [each for told in process.answer(50.0) for each in told]:
            for other in processes:
                if other is not process:
                    other.hear(notice)
    assert all(each.keys == processes[0].keys for each in processes)
