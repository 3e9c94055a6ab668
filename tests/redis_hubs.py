"""Hubs whose backplane is a server, or a group of them, that know each other; what they say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from tests.integration.apps.live import Live, subscribe
from tests.support import TIMEOUT, RawPeer, wait_until
from ws_hub import ChannelRule, Hub, HubConfig, Message, serve
from ws_hub.backplane.redis import RedisBackplane

__all__ = ["connected", "hubs", "keep", "one", "ready", "replayed", "send", "two", "until"]

RULES = [ChannelRule("kept*", history_messages=10_000)]


@contextlib.contextmanager
def one(url: str) -> Iterator[Live]:
    """Serve a hub, whose connections to the servers have the name "hub"."""
    mark = "&" if "?" in url else "?"
    config = HubConfig(rules=RULES, backplane=RedisBackplane(f"{url}{mark}client_name=hub"))
    with Hub(config) as hub, serve(hub) as server:
        yield Live(hub, server, None)  # type: ignore[arg-type]


@contextlib.contextmanager
def two(url: str) -> Iterator[tuple[Live, Live]]:
    """Serve two hubs that know each other."""
    with one(url) as first, one(url) as second:
        connected(first, second)
        yield first, second


@contextlib.contextmanager
def hubs(
    *urls: str, rules: Sequence[ChannelRule] = RULES, peers: int | None = None
) -> Iterator[list[Live]]:
    """Serve hubs at addresses; each knows `peers` others, by default all."""
    with contextlib.ExitStack() as stack:
        found: list[Live] = []
        for url in urls:
            config = HubConfig(rules=rules, backplane=RedisBackplane(url))
            hub = stack.enter_context(Hub(config))
            found.append(Live(hub, stack.enter_context(serve(hub)), None))  # type: ignore[arg-type]
        ready(found, len(urls) - 1 if peers is None else peers)
        yield found


def ready(found: Sequence[Live], peers: int) -> None:
    """Wait until hubs reach the servers and so many others."""
    for each in found:
        wait_until(lambda each=each: not each.hub.stats().bus_down, what="the server")  # type: ignore[misc]
        wait_until(lambda each=each: each.hub.stats().peers == peers, what="peers")  # type: ignore[misc]


def connected(*two_hubs: Live) -> None:
    """Wait until two hubs reach the servers and each other."""
    ready(two_hubs, 1)


def send(live: Live, channel: str, data: Any) -> None:
    """Publish to a channel."""
    live.hub.send_to_channel(channel, Message("event", data=data), timeout=TIMEOUT)


def keep(live: Live, data: Any, channel: str = "kept") -> int | None:
    """Publish to a channel with history; return the number of the message, None without one."""
    delivery = live.hub.send_to_channel(channel, Message("event", data=data), wait=TIMEOUT)
    assert delivery is not None
    return delivery.seq


def until(peer: RawPeer, last: Any) -> list[Any]:
    """Return the data of the events that a peer gets before one with `last`."""
    found: list[Any] = []
    while found[-1:] != [last]:
        message = peer.recv_json()
        found += [message["data"]] if message["type"] == "event" else []
    return found[:-1]


def replayed(live: Live, channel: str = "kept") -> list[Any]:
    """Return what a new subscriber gets, each message once and in order."""
    with live.peer() as peer:
        count = subscribe(peer, channel, since=0)["replayed"]
        found = [peer.recv_json() for _ in range(count)]
        numbers = [each["seq"] for each in found]
        assert numbers == sorted(set(numbers))
        return [each["data"] for each in found]
