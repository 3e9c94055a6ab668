"""Tests for what a process tells the others: which messages go as one notice."""

from __future__ import annotations

import json

import pytest

from ws_hub.backplane.bus import Notice, NoticeKind
from ws_hub.backplane.told import Told, ToldQueue
from ws_hub.reentrant import Wakeup


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told(clock: Clock) -> ToldQueue:
    return ToldQueue(Wakeup(), 1 << 20, clock)


def message(text: str, channel: str = "news", **fields: str) -> Notice:
    return Notice(NoticeKind.PUBLISH, channel, (text.encode(),), **fields)  # type: ignore[arg-type]


def taken(told: ToldQueue) -> list[tuple[dict[str, object], list[str]]]:
    """Take all; return the fields and the texts of each notice."""
    found = []
    while told:
        each = told.take()
        assert isinstance(each, Told)
        line, *texts = each.tail.decode().split("\n")
        fields = json.loads("{" + line[1:])
        assert fields.get("joined", 1) == each.stands_for
        found.append((fields, texts))
    assert told.take() is None
    return found


def texts_of(told: ToldQueue) -> list[list[str]]:
    return [texts for _, texts in taken(told)]


def test_messages_for_one_channel_that_wait_go_as_one_notice(told: ToldQueue) -> None:
    told.put(message("1"))
    told.put(Notice(NoticeKind.PUBLISH, "news", (b"2", b"3")))
    told.put(message("4"))
    told.put(Notice(NoticeKind.PUBLISH, "news"))
    fields_of_none = {"kind": "publish", "name": "news"}
    fields = {"joined": 3, "kind": "publish", "name": "news"}
    assert taken(told) == [(fields, ["1", "2", "3", "4"]), (fields_of_none, [])]


def test_what_comes_later_is_a_notice_of_its_own(told: ToldQueue) -> None:
    told.put(message("1"))
    assert texts_of(told) == [["1"]]
    told.put(message("2"))
    assert texts_of(told) == [["2"]]


def test_the_order_among_channels_stays(told: ToldQueue) -> None:
    for text, channel in (("1", "a"), ("2", "b"), ("3", "b"), ("4", "a"), ("5", "")):
        told.put(message(text, channel))
    assert [(fields.get("name"), texts) for fields, texts in taken(told)] == [
        ("a", ["1"]),
        ("b", ["2", "3"]),
        ("a", ["4"]),
        (None, ["5"]),
    ]


def test_messages_with_keys_and_for_users_go_alone(told: ToldQueue) -> None:
    for text in "12":
        told.put(message(text, "cpu", key="load"))
    for text in "34":
        told.put(Notice(NoticeKind.USER, "ann", (text.encode(),)))
    for text in "56":
        told.put(message(text, "cpu"))
    assert texts_of(told) == [["1"], ["2"], ["3"], ["4"], ["5", "6"]]


def test_what_is_not_for_the_same_processes_goes_alone(told: ToldQueue) -> None:
    told.put(message("1"), ("other",))
    told.put(message("2"), ("other",))
    told.put(message("3"))
    assert texts_of(told) == [["1", "2"], ["3"]]


def test_a_kept_between_them_is_told_once_and_in_its_place(told: ToldQueue) -> None:
    told.put(message("1"))
    for _ in range(3):
        told.put(Notice(NoticeKind.KEPT))
    told.put(message("2"))
    assert [fields["kind"] for fields, _ in taken(told)] == ["publish", "kept", "publish"]
    told.put(Notice(NoticeKind.KEPT))
    assert [fields["kind"] for fields, _ in taken(told)] == ["kept"]


def test_a_notice_has_bounds(told: ToldQueue) -> None:
    for number in range(1000):
        told.put(message(str(number)))
    parts = texts_of(told)
    assert [text for part in parts for text in part] == [str(number) for number in range(1000)]
    assert max(map(len, parts)) == 256
    for _ in range(10):
        told.put(message("x" * 30_000))
    assert [len(part) for part in texts_of(told)] == [2] * 5
    told.put(message("x" * 500_000))  # larger than all others together, and alone
    told.put(message("y"))
    assert [len(part) for part in texts_of(told)] == [1, 1]


def test_what_was_told_long_after_goes_alone(told: ToldQueue, clock: Clock) -> None:
    """The age of a notice is that of its oldest message: a newer one must not be too old."""
    told.put(message("1"))
    clock.now = 0.9
    told.put(message("2"))
    clock.now = 1.1
    told.put(message("3"))
    assert texts_of(told) == [["1", "2"], ["3"]]


def test_what_waits_is_counted_also_when_it_was_looked_at(told: ToldQueue) -> None:
    told.put(message("1", "a"))
    told.put(message("2", "b"))
    assert len(told) == 2
    told.take()
    assert len(told) == 1
    told.take()
    assert len(told) == 0
