"""Who listens to what, by one thread and by many."""

from __future__ import annotations

import random
import threading

import pytest

from ws_hub.hub.subscriptions import ChannelMap


def with_subscribers(*names: str) -> ChannelMap[str]:
    channels: ChannelMap[str] = ChannelMap()
    for name in names:
        channels.enter(name)
    return channels


def test_a_subscriber_is_listed_in_both_directions() -> None:
    channels = with_subscribers("ann", "bob")
    channels.add("ann", "news", 10)
    channels.add("bob", "news", 10)
    channels.add("ann", "chat", 10)
    assert [each.subscriber for each in channels.subscriptions("news")] == ["ann", "bob"]
    assert channels.of("ann") == ["news", "chat"]
    assert channels.names() == ["news", "chat"]
    assert (channels.count("news"), len(channels), channels.total) == (2, 2, 3)


def test_a_subscription_is_reached_from_when_it_has_its_place_until_its_end() -> None:
    channels = with_subscribers("ann", "bob", "eve")
    made = {name: channels.add(name, "news", 10) for name in ("ann", "bob", "eve")}
    assert (channels.count("news"), channels.reached("news")) == (3, 0)
    for name in ("ann", "bob", "ann"):  # the second time, that changes nothing
        subscription = made[name]
        assert subscription is not None and channels.place(subscription)
    assert channels.reached("news") == 2
    channels.remove("ann", "news")
    channels.remove("eve", "news")
    assert (channels.count("news"), channels.reached("news")) == (1, 1)
    assert made["eve"] is not None and not channels.place(made["eve"])
    channels.leave("bob")
    assert (channels.count("news"), channels.reached("news")) == (0, 0)


def test_subscribing_again_changes_nothing() -> None:
    channels = with_subscribers("ann")
    first = channels.add("ann", "news", 10)
    assert channels.add("ann", "news", 10) is first
    assert channels.get("ann", "news") is first
    assert channels.total == 1


def test_subscriber_that_has_not_entered_cannot_subscribe() -> None:
    channels = with_subscribers()
    assert channels.add("ann", "news", 10) is None
    assert len(channels) == 0


def test_subscriber_that_has_left_cannot_subscribe() -> None:
    channels = with_subscribers("ann")
    channels.add("ann", "news", 10)
    assert channels.leave("ann") == ["news"]
    assert channels.add("ann", "news", 10) is None
    assert (channels.names(), channels.of("ann"), channels.total) == ([], [], 0)
    assert channels.leave("ann") == []


def test_one_subscriber_has_so_many_channels_and_no_more() -> None:
    channels = with_subscribers("ann")
    channels.add("ann", "one", 1)
    with pytest.raises(OverflowError):
        channels.add("ann", "two", 1)
    assert channels.add("ann", "one", 1) is not None


def test_unsubscribing_says_whether_there_was_a_subscription() -> None:
    channels = with_subscribers("ann")
    channels.add("ann", "news", 10)
    assert channels.remove("ann", "news")
    assert not channels.remove("ann", "news")
    assert not channels.remove("nobody", "news")
    assert channels.subscriptions("news") == []


def test_the_first_and_the_last_are_announced_in_order() -> None:
    news: list[str] = []
    channels: ChannelMap[str] = ChannelMap(
        lambda channel: news.append(f"+{channel}"), lambda channel: news.append(f"-{channel}")
    )
    for name in ("ann", "bob"):
        channels.enter(name)
        subscription = channels.add(name, "news", 10)
        assert subscription is not None
        assert news == (["+news"] if name == "bob" else [])  # not before it has its place
        channels.place(subscription)
    channels.remove("ann", "news")
    channels.leave("bob")
    assert news == ["+news", "-news"]


def test_one_that_never_had_its_place_is_neither_first_nor_last() -> None:
    news: list[str] = []
    channels: ChannelMap[str] = ChannelMap(news.append, news.append)
    channels.enter("ann")
    subscription = channels.add("ann", "news", 10)
    assert subscription is not None
    channels.withdraw(subscription)
    assert (news, channels.names()) == ([], [])


def test_a_begin_is_announced_once_and_its_end_then() -> None:
    told: list[tuple[str, str, bool]] = []
    channels: ChannelMap[str] = ChannelMap(
        on_begun=lambda each: told.append((each.subscriber, each.channel, True)),
        on_ended=lambda each, left: told.append((each.subscriber, each.channel, left)),
    )
    channels.enter("ann")
    made = {name: channels.add("ann", name, 10) for name in ("news", "chat", "silent")}
    for subscription in (made["news"], made["news"], made["chat"]):
        assert subscription is not None
        channels.announce(subscription)
    channels.remove("ann", "news")
    assert made["news"] is not None
    channels.announce(made["news"])  # too late: it has ended
    channels.leave("ann")
    assert told == [
        ("ann", "news", True), ("ann", "chat", True), ("ann", "news", False), ("ann", "chat", True),
    ]  # fmt: skip


def test_what_is_taken_back_by_one_of_two_has_not_ended() -> None:
    ended: list[str] = []
    channels: ChannelMap[str] = ChannelMap(on_ended=lambda each, left: ended.append(each.channel))
    channels.enter("ann")
    one = channels.add("ann", "news", 10)
    assert one is not None and channels.add("ann", "news", 10) is one
    channels.announce(one)
    channels.withdraw(one)
    assert ended == [] and channels.of("ann") == ["news"]
    channels.remove("ann", "news")
    assert ended == ["news"]


def test_many_threads_leave_the_map_consistent() -> None:
    balance = dict.fromkeys("xyz", 0)

    def count(channel: str, by: int) -> None:
        balance[channel] += by
        assert balance[channel] in (0, 1)

    channels: ChannelMap[int] = ChannelMap(
        lambda channel: count(channel, 1), lambda channel: count(channel, -1)
    )
    start = threading.Barrier(6)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        channels.enter(seed)
        start.wait(5)
        for _ in range(400):
            channel = chance.choice("xyz")
            if chance.random() < 0.5 and len(channels.of(seed)) < 2:
                subscription = channels.add(seed, channel, 2)
                assert subscription is not None
                if chance.random() < 0.8:
                    channels.place(subscription)
                else:
                    channels.withdraw(subscription)
            else:
                channels.remove(seed, channel)
            channels.subscriptions(channel)
        channels.leave(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(channels), channels.total) == (0, 0)
    assert [channels.reached(channel) for channel in "xyz"] == [0, 0, 0]
    assert set(balance.values()) == {0}
