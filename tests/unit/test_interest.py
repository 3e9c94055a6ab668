"""What a process wants to be told, and what others see of it."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from ws_hub.backplane.bus import Notice, NoticeKind
from ws_hub.backplane.interest import (
    ALL_CLIENTS,
    TABLE_BYTES,
    Audience,
    Interest,
    Table,
    channel_topic,
    user_topic,
)
from ws_hub.hub.subscriptions import ChannelMap
from ws_hub.hub.users import Users

needs_memory = pytest.mark.skipif(sys.platform != "linux", reason="needs memfd_create")

NEWS = Notice(NoticeKind.PUBLISH, "news", (b"1",))


@pytest.fixture
def interest() -> Iterator[Interest]:
    found = Interest()
    yield found
    found.close()


def seen(interest: Interest) -> Audience:
    """Return what another process sees: one peer, by the table that it shares."""
    return Audience([("peer", Table(interest.share()))])


@pytest.mark.parametrize(
    "notice",
    [
        Notice(NoticeKind.PUBLISH, "keyed", (b"1",), key="k"),
        Notice(NoticeKind.DISCONNECT, "ann"),
        Notice(NoticeKind.KEPT),
        Notice(NoticeKind.KEYS),
        Notice(NoticeKind.PRESENCE, texts=(b"{}",)),
    ],
)
@needs_memory
def test_what_every_process_needs_has_no_topic(interest: Interest, notice: Notice) -> None:
    assert notice.topic is None
    assert interest.wants(notice.topic)
    assert seen(interest).uninterested(notice.topic) == ()


@needs_memory
def test_a_topic_is_wanted_from_its_begin_to_its_last_end(interest: Interest) -> None:
    audience = seen(interest)
    assert audience.uninterested(NEWS.topic) is None
    for _ in range(2):
        interest.begin(channel_topic("news"))
    assert audience.uninterested(NEWS.topic) == ()
    interest.end(channel_topic("news"))
    assert audience.uninterested(NEWS.topic) == ()
    interest.end(channel_topic("news"))
    assert audience.uninterested(NEWS.topic) is None
    interest.end(channel_topic("news"))  # once too often changes nothing
    interest.begin(channel_topic("news"))
    assert audience.uninterested(NEWS.topic) == ()


@needs_memory
def test_topics_with_one_hash_are_wanted_as_long_as_one_of_them_is(interest: Interest) -> None:
    found: dict[int, bytes] = {}
    from zlib import crc32

    for number in range(100_000):
        topic = channel_topic(f"c{number}")
        other = found.setdefault(crc32(topic) % TABLE_BYTES, topic)
        if other is not topic:
            break
    else:
        pytest.fail("no two")
    audience = seen(interest)
    interest.begin(topic)
    interest.begin(other)
    interest.end(topic)
    assert audience.uninterested(other) == ()
    interest.end(other)
    assert audience.uninterested(other) is None


def test_without_anybody_nothing_is_for_anybody() -> None:
    assert Audience().uninterested(None) is None
    assert Audience().uninterested(NEWS.topic) is None


@needs_memory
def test_one_that_shares_no_table_wants_all_and_others_are_named(interest: Interest) -> None:
    table = Table(interest.share())
    audience = Audience([("a", None), ("b", table), ("c", table)])
    assert audience.uninterested(NEWS.topic) == ("b", "c")
    interest.begin(channel_topic("news"))
    assert audience.uninterested(NEWS.topic) == ()


@needs_memory
def test_a_table_has_what_began_before_it_and_outlives_its_owner(interest: Interest) -> None:
    interest.begin(user_topic("ann"))
    audience = seen(interest)
    interest.close()
    interest.begin(user_topic("bob"))  # nobody reads it, and it is no error
    interest.end(user_topic("bob"))
    assert audience.uninterested(user_topic("ann")) == ()
    assert audience.uninterested(channel_topic("ann")) is None


@needs_memory
def test_what_is_no_table_is_refused() -> None:
    unsealed = os.memfd_create("a", os.MFD_CLOEXEC)
    read, write = os.pipe()
    try:
        os.ftruncate(unsealed, TABLE_BYTES)
        for descriptor in (unsealed, read):
            with pytest.raises((OSError, ValueError)):
                Table(descriptor)
    finally:
        for descriptor in (unsealed, read, write):
            os.close(descriptor)


@needs_memory
def test_a_table_can_be_neither_shortened_nor_changed_by_a_peer(interest: Interest) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(interest.share(), 0)


@pytest.mark.parametrize("seed", range(20))
def test_it_has_the_channels_and_the_users_of_a_hub(interest: Interest, seed: int) -> None:
    """After any changes it has the topics that the maps have, and no other one."""
    rng = random.Random(seed)
    channels: ChannelMap[int] = ChannelMap(interest=interest)
    users: Users[int] = Users(interest)
    names, everybody = [f"c{number}" for number in range(8)], range(6)
    here: dict[int, str] = {}
    for _ in range(400):
        client, name = rng.choice(everybody), rng.choice(names)
        match rng.randrange(5):
            case 0 if client not in here:
                here[client] = rng.choice(["", "ann", "bob"])
                channels.enter(client)
                users.enter(client, here[client], 1e9)
            case 1:
                here.pop(client, None)
                channels.leave(client)
                users.leave(client)
            case 2 | 3:
                channels.add(client, name, 100)
            case _:
                channels.remove(client, name)
        wanted = Counter(map(channel_topic, channels.names()))
        wanted.update(user_topic(user) for user in {*here.values()} - {""})
        wanted.update([ALL_CLIENTS] if here else [])
        topics = [*map(channel_topic, names), *map(user_topic, ("ann", "bob")), ALL_CLIENTS]
        assert [each for each in topics if interest.wants(each)] == [
            each for each in topics if each in wanted
        ]
    for client in everybody:
        channels.leave(client)
        users.leave(client)
    assert not any(interest.wants(each) for each in topics)
