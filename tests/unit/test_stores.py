"""History stores: one suite for all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interventions import published_remembered
from tests.kept_model import KeptModel
from tests.redis_groups import clustered
from tests.redis_servers import SERVERS, running
from ws_hub import ChannelRule, HistoryError, Message, MessageType, SqliteHistory
from ws_hub.backplane.redis_history import RedisHistory
from ws_hub.backplane.redis_server import RedisServer
from ws_hub.backplane.store import HistoryStore, Page
from ws_hub.hub.memory import MemoryHistory
from ws_hub.protocol.message import encode

RULE = ChannelRule(pattern="*", history_messages=5, history_ttl=10, history_idle_ttl=1000)
SMALL = ChannelRule(pattern="small:*", history_messages=1000, history_bytes=300)
HEADS = [
    ChannelRule("head:1:*", history_messages=40, history_bytes=10**6, history_head_bytes=3 * 10**5),
    ChannelRule("head:2:*", history_messages=10**4, history_bytes=20_000, history_head_bytes=6000),
    ChannelRule("head:3:*", history_messages=400, history_bytes=40_000, history_head_bytes=39_999),
]
START = 1_700_000_000.0
ADDRESSED = [*SERVERS, *[f"cluster of {name}" for name in SERVERS]]


class Time:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def rule_for(channel: str) -> ChannelRule:
    return next((rule for rule in (SMALL, *HEADS) if rule.matches(channel)), RULE)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], str]]:
    """Start each server once; return an address whose prefix nobody has."""
    with contextlib.ExitStack() as stack:
        started: dict[str, Callable[[str], str]] = {}
        prefixes = map("test{}".format, itertools.count())

        def address(name: str) -> str:
            if name not in started:
                kind, _, of = name.partition(" of ")
                run = clustered(of) if of else running(kind)
                started[name] = stack.enter_context(run).url
            return started[name](f"?prefix={next(prefixes)}")

        for name in ADDRESSED:  # before any test: none leaves a process behind
            address(name)
        yield address


@pytest.fixture(params=["memory", "sqlite", *ADDRESSED])
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clock: Time,
    servers: Callable[[str], str],
) -> Iterator[HistoryStore]:
    make: dict[str, Callable[[], HistoryStore]] = {
        "memory": lambda: MemoryHistory(clock=clock),
        "sqlite": lambda: SqliteHistory(tmp_path / "hub.db", clock=clock),
    }
    for name in ADDRESSED:
        make[name] = lambda name=name: RedisHistory(  # type: ignore[misc]
            RedisServer(servers(name)), "0" * 32, clock=clock
        )
    made = make[request.param]()
    made.open(rule_for)
    yield made
    made.close()


def text(value: Any, seconds: float = START) -> bytes:
    return encode(Message(MessageType.EVENT, channel="a", data=value), seconds)


def texts(*values: Any, seconds: float = START) -> list[bytes]:
    return [text(value, seconds) for value in values]


def values(page: Page) -> list[Any]:
    """Return the data of the messages of a page, whose numbers are those in their texts."""
    found = [json.loads(each.text) for each in page.messages]
    assert [each["seq"] for each in found] == [each.seq for each in page.messages]
    return [each["data"] for each in found]


def test_numbers_begin_at_one_and_grow_by_one(store: HistoryStore) -> None:
    first = store.append("a", texts("x"))
    assert (first.first, first.last) == (1, 1)
    second = store.append("a", texts("y", "z"))
    assert (second.epoch, second.first, second.last) == (first.epoch, 2, 3)
    assert store.append("b", texts("x")).first == 1


def test_a_channel_without_messages_has_a_numbering_already(store: HistoryStore) -> None:
    head = store.head("a")
    assert (head.first, head.last) == (1, 0)
    assert store.names() == []
    assert store.append("a", texts("x")).epoch == head.epoch


def test_the_heads_of_many_channels_are_those_of_each(store: HistoryStore) -> None:
    channels = [f"a:{number}" for number in range(1200)]
    for number in range(0, 1200, 100):
        store.append(channels[number], texts(*range(number // 100 + 1)))
    heads = store.heads(channels)
    assert heads == [store.head(channel) for channel in channels]
    assert [heads[number].last for number in (0, 1, 1100)] == [1, 0, 12]
    assert (heads[1100].first, heads[1100].last) == (8, 12)
    assert store.heads([]) == []


def test_its_own_messages_are_no_change(store: HistoryStore) -> None:
    before = store.version()
    store.append("a", texts("x"))
    store.read("a")
    store.expire(START + 5000)
    assert store.version() == before


def test_reads_oldest_first_and_in_pages(store: HistoryStore) -> None:
    store.append("a", texts(1, 2, 3, 4, 5))
    assert values(store.read("a")) == [1, 2, 3, 4, 5]
    assert values(store.read("a", limit=2)) == [1, 2]
    page = store.read("a", after=2, limit=2)
    assert values(page) == [3, 4]
    assert (page.kept.first, page.kept.last) == (1, 5)
    assert values(store.read("a", after=5)) == []
    assert values(store.read("a", after=99)) == []
    assert values(store.read("b", after=0)) == []
    assert values(store.read("a", limit=0)) == []


def test_reads_backwards_in_pages(store: HistoryStore) -> None:
    store.append("a", texts(1, 2, 3, 4, 5))
    assert values(store.read("a", last=2)) == [4, 5]
    assert values(store.read("a", before=4, limit=2)) == [2, 3]
    assert values(store.read("a", before=2, limit=2)) == [1]
    assert values(store.read("a", before=1)) == []
    assert values(store.read("a", before=99, limit=1)) == [5]
    assert values(store.read("a", last=99)) == [1, 2, 3, 4, 5]
    assert values(store.read("a", last=0)) == []


def test_reads_from_a_time_on(store: HistoryStore) -> None:
    for number in range(5):
        store.append("a", texts(number, seconds=START + number))
    assert values(store.read("a", since_time=START + 3)) == [3, 4]
    assert values(store.read("a", since_time=START + 2.5)) == [3, 4]
    assert values(store.read("a", since_time=START - 1)) == [0, 1, 2, 3, 4]
    assert values(store.read("a", since_time=START + 9)) == []
    assert values(store.read("a", since_time=START + 1, limit=2)) == [1, 2]


def test_keeps_so_many_messages(store: HistoryStore) -> None:
    for number in range(8):
        store.append("a", texts(number))
    page = store.read("a")
    assert values(page) == [3, 4, 5, 6, 7]
    assert (page.kept.first, page.kept.last) == (4, 8)
    store.append("a", texts(*range(20)))
    assert values(store.read("a")) == [15, 16, 17, 18, 19]


def test_keeps_so_many_bytes_and_always_the_last_message(store: HistoryStore) -> None:
    for number in range(8):
        store.append("small:a", texts(number))
    found = store.read("small:a").messages
    assert 1 < len(found) < 8
    assert sum(len(each.text) for each in found) <= 300 + len(found) * 10
    for value in "x" * 1000, "y" * 1000:
        store.append("small:a", texts(value))
        assert values(store.read("small:a")) == [value]
    store.append("small:b", texts("x" * 1000))
    assert values(store.read("small:b")) == ["x" * 1000]


def test_keeps_the_newest_of_a_long_batch(store: HistoryStore) -> None:
    for start in range(0, 2000, 1000):
        span = store.append("a", texts(*range(start, start + 1000)))
        assert (span.first, span.last) == (start + 1, start + 1000)
        assert values(store.read("a")) == list(range(start + 995, start + 1000))
        store.append("small:a", texts(*range(start, start + 1000)))
        page = store.read("small:a")
        assert values(page)[-1] == start + 999
        assert page.kept.last == start + 1000
        assert 1 < len(page.messages) == page.kept.last - page.kept.first + 1 < 8


def test_forgets_after_the_last_message_but_goes_on_numbering(
    store: HistoryStore, clock: Time
) -> None:
    before = store.append("a", texts(1))
    store.append("b", texts(1), ends=True)
    store.expire(START + 9)
    assert store.names() == ["a", "b"]
    store.expire(START + 11)
    assert store.names() == ["a"]
    store.expire(START + 1001)
    assert store.names() == []
    assert values(store.read("a")) == []
    after = store.append("a", texts(2))
    assert (after.epoch, after.first) == (before.epoch, 2)
    assert values(store.read("a")) == [2]


def test_names_channels_longest_unused_first(store: HistoryStore, clock: Time) -> None:
    for channel in "a", "b", "a":
        clock.now += 1
        store.append(channel, texts(1))
    assert store.names() == ["b", "a"]


def test_left_out_numbers_are_a_hole_that_is_seen(store: HistoryStore) -> None:
    store.append("a", texts(1, 2))
    span = store.append("a", texts(3), skip=3)
    assert (span.first, span.last) == (6, 6)
    page = store.read("a")
    assert [each.seq for each in page.messages] == [1, 2, 6]
    assert (page.kept.first, page.kept.last) == (1, 6)
    assert values(store.read("a", after=2)) == [3]
    assert values(store.read("a", after=4)) == [3]
    assert values(store.read("a", last=2)) == [2, 3]
    assert values(store.read("a", before=5)) == [1, 2]
    assert values(store.read("a", before=6, limit=1)) == [2]


def test_a_snapshot_has_the_newest_message_of_each_key(store: HistoryStore) -> None:
    store.append("a", texts("x1", "y1", "none"), keys=["x", "y", None])
    store.append("a", texts("x2"), keys=["x"])
    page = store.snapshot("a")
    assert values(page) == ["y1", "x2"]
    assert [each.key for each in page.messages] == ["y", "x"]
    assert page.kept.last == 4
    store.append("a", texts("y2", "y3"), keys=["y", "y"])
    assert values(store.snapshot("a")) == ["x2", "y3"]
    assert store.head("a").last == 6
    assert values(store.snapshot("b")) == []


def test_knows_the_newest_of_what_was_published_with_a_key(store: HistoryStore) -> None:
    assert not store.has_published("k1")
    store.append("a", texts(1, 2, 3), once=["k1", "k2"])
    assert store.append("a", texts(1, 2), once=["k9", "k2"]).repeated == ("k2",)
    assert store.head("a").last == 3
    assert not store.has_published("k9")
    assert store.append("b", texts(1), once=[]).repeated == ()
    assert [store.has_published(each) for each in ("k1", "k2", "k3")] == [True, True, False]
    with published_remembered(2):
        store.append("a", texts(4), once=["k3"])
        store.expire(START)
        assert [store.has_published(each) for each in ("k1", "k2", "k3")] == [False, True, True]


def test_threads_get_different_numbers(store: HistoryStore) -> None:
    start = threading.Barrier(4)
    spans = []

    def append() -> None:
        start.wait(5)
        for _ in range(50):
            spans.append(store.append("a", texts(1, 2)))

    threads = [threading.Thread(target=append) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(span.first for span in spans) == list(range(1, 401, 2))


def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    for store in MemoryHistory(), SqliteHistory(tmp_path / "hub.db"):
        with pytest.raises(HistoryError, match="is not open"):
            store.append("a", texts(1))


# --- the beginning, and the middle ------------------------------------------------------------


def status(word: str) -> bytes:
    return encode(Message(MessageType.PROCESS_STATUS, data={"status": word}), START)


def test_the_first_messages_stay_and_what_is_gone_behind_them_is_named(store: HistoryStore) -> None:
    size = len(text("x" * 100))
    for each in range(100):
        store.append("head:1:a", [text(f"{each:0100}")])
    page = store.read("head:1:a")
    assert [each.seq for each in page.messages] == [*range(1, 13), *range(73, 101)]
    middle = page.kept.middle
    assert middle is not None
    assert (middle.after, middle.messages, middle.last, page.kept.begin) == (12, 60, 72, 1)
    assert middle.total_bytes == 60 * size
    assert (page.kept.first, page.kept.last) == (1, 100)
    assert store.head("head:1:a") == page.kept


def test_pages_go_over_the_middle(store: HistoryStore) -> None:
    for each in range(100):
        store.append("head:1:a", texts(each, seconds=START + each))

    def read(**where: Any) -> list[int]:
        return [each.seq for each in store.read("head:1:a", **where).messages]

    assert read(after=10, limit=4) == [11, 12, 73, 74]
    assert read(after=12, limit=2) == read(after=50, limit=2) == read(after=72, limit=2) == [73, 74]
    assert read(before=74, limit=3) == read(before=75, limit=4)[:3] == [11, 12, 73]
    assert read(before=73, limit=2) == read(before=40, limit=2) == [11, 12]
    assert read(last=29) == [12, *range(73, 101)]
    assert read(since_time=START + 11, limit=2) == [12, 73]
    assert read(since_time=START + 20, limit=1) == read(since_time=START + 72, limit=1) == [73]


def test_another_run_and_an_empty_channel_have_beginnings_of_their_own(
    store: HistoryStore, clock: Time
) -> None:
    for _ in range(2):
        store.append("head:1:a", [status("running"), *texts(*range(60))])
    store.append("head:1:a", [status("exited")], ends=True)
    page = store.read("head:1:a")
    assert [each.seq for each in page.messages] == [*range(62, 74), *range(96, 124)]
    clock.now += 301
    store.expire(clock.now)
    store.append("head:1:a", texts(*range(60)))
    page = store.read("head:1:a")
    assert [each.seq for each in page.messages] == [*range(124, 136), *range(156, 184)]
    assert page.kept.middle is not None
    assert (page.kept.middle.after, page.kept.middle.messages, page.kept.begin) == (135, 20, 124)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rule", HEADS, ids=lambda rule: rule.pattern)
def test_a_store_keeps_what_the_model_keeps(
    store: HistoryStore, rule: ChannelRule, seed: int
) -> None:
    chance, channel = random.Random(seed), rule.pattern.replace("*", "a")
    model = KeptModel(rule)
    for _ in range(80):
        count, skip = chance.choice([1, 1, 2, 20, 127, 128, 129, 400]), chance.choice([0, 0, 0, 3])
        batch = texts(*["x" * chance.choice([1, 1, 80, 800]) for _ in range(count)])
        begins = chance.randrange(count) if chance.random() < 0.06 else None
        if begins is not None:
            batch[begins] = status("running")
        span = store.append(channel, batch, skip=skip)
        model.leave_out(skip)
        model.add([len(each) for each in batch], begins)
        assert span.last == model.last
        kept = store.head(channel)
        assert (kept.first, kept.middle) == (model.first, model.middle)
        numbers = model.numbers
        for limit in chance.sample([1, 7, 150, 1000], 2):
            at = chance.randint(0, model.last + 2)
            below = [each for each in numbers if each < at]
            found = [
                [each.seq for each in store.read(channel, **where, limit=limit).messages]
                for where in ({"after": at}, {"before": at}, {"last": limit})
            ]
            assert found == [
                [each for each in numbers if each > at][:limit], below[-limit:], numbers[-limit:]
            ]  # fmt: skip


# --- states of lines -----------------------------------------------------------------------


def test_states_are_kept_beside_the_messages_until_they_are_replaced(store: HistoryStore) -> None:
    span = store.append("p", [text(0)], states={2: b"state 2", 3: b"state 3"})
    assert store.append("p", [], states={3: b"newer 3"}).last == span.last == 1
    assert store.states(["p", "other"]) == [{2: b"state 2", 3: b"newer 3"}, {}]
    store.append("p", [text(1)], states={2: None})
    assert store.states(["p"]) == [{3: b"newer 3"}]
    assert [each.seq for each in store.read("p").messages] == [1, 2]
    store.append("p", [text(2)], ends=True)
    assert store.states(["p"]) == [{}]


def test_states_expire_with_the_messages(store: HistoryStore, clock: Time) -> None:
    store.append("p", [text(0)], states={2: b"state"})
    clock.now += 2000
    store.expire(clock.now)
    assert store.states(["p"]) == [{}]


SHARED = ["sqlite", *ADDRESSED]  # what several releases may use, or hubs with other rules


@pytest.mark.parametrize("store", SHARED, indirect=True)
@pytest.mark.parametrize("more", [1, 4, 60])
def test_a_beginning_that_another_rule_or_an_older_release_has_let_go_of_holds_nothing(
    store: HistoryStore, more: int
) -> None:
    keeps = ChannelRule("*", history_messages=20, history_bytes=1600, history_head_bytes=800)

    def write(rule: ChannelRule, count: int) -> int:
        store.close()
        store.open(lambda channel: rule)
        for _ in range(count):
            last = store.append("a", texts("x")).last
        return last

    write(keeps, 60)
    assert store.head("a").first == 1
    write(dataclasses.replace(keeps, history_head_bytes=0), more)
    write(keeps, 60)
    last = store.append("a", texts("x" * 1400)).last
    assert [each.seq for each in store.read("a").messages][-1] == last
    assert sum(len(each.text) for each in store.read("a").messages) < 1700
    last = write(keeps, 60)
    assert store.head("a").first > last - 20


@pytest.mark.parametrize("store", SHARED, indirect=True)
def test_a_message_stays_behind_a_beginning_to_which_others_have_added(
    store: HistoryStore,
) -> None:
    keeps = ChannelRule("*", history_messages=1000, history_bytes=800, history_head_bytes=500)
    for rule, count in ((keeps, 1), (dataclasses.replace(keeps, history_head_bytes=0), 2)):
        store.close()
        store.open(lambda channel, rule=rule: rule)
        for _ in range(count):
            store.append("a", texts("x"))
    store.close()
    store.open(lambda channel: keeps)
    for value in ("x", "y", "z" * 5000, "z" * 5000):
        last = store.append("a", texts(value)).last
        assert store.read("a", last=1).messages[0].seq == last
