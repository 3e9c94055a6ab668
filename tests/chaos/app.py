"""The server that is killed: python -m tests.chaos.app PORT FILE RECORD LIFE CLOCK.

A hub with a history in FILE, or on the server that WS_HUB_BACKPLANE names, and two threads that
publish numbers. What has come of them is appended to RECORD, a line each, which outlives a kill:
publisher, number, channel, time, and whether it is sure that it was accepted.
CLOCK is the number of seconds by which its wall clock is wrong. Commands come on its input,
a line each, and each is answered by a line.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from tests.chaos.plan import (
    CHANNELS,
    FIRM,
    FORGETFUL,
    KEPT_BRIEFLY,
    LIFE,
    LOOSE,
    MARK,
    PRESENT,
    event_of,
    value_of,
)
from ws_hub import AuthResult, ChannelRule, Hub, HubConfig, SqliteHistory, WsHubError, serve
from ws_hub.backplane.addresses import VARIABLE
from ws_hub.page import page_app

MIB = 1024 * 1024
AMPLE: dict[str, Any] = {
    "history_messages": 1_000_000, "history_bytes": 256 * MIB, "publish": True
}  # fmt: skip
RULES = [
    ChannelRule(FORGETFUL, history_messages=KEPT_BRIEFLY, publish=True),
    ChannelRule(PRESENT, **AMPLE, presence=True, presence_grace=1.0),
    ChannelRule("chaos:*", **AMPLE),
]
PAUSE = 0.025  # seconds between two messages of a thread


class Clock:
    """The wall clock of this process, which can be wrong."""

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self._right = time.time
        time.time = self.now  # before the hub, the log and the store ask for it

    def now(self) -> float:
        return self._right() + self.offset


def config_of(file: str) -> HubConfig:
    # Small outboxes, and pings soon, so that two minutes have what days have.
    store = SqliteHistory(file, clock=lambda: time.time())  # noqa: PLW0108 - it is replaced
    return HubConfig(
        history=None if os.environ.get(VARIABLE, "").startswith("redis:") else store,
        rules=RULES,
        authenticator=_authenticated,
        heartbeat_interval=1.0,
        pong_timeout=4.0,
        write_timeout=4.0,
        queue_size=64,
        outbox_messages=512,
        compression=True,
        compression_min_size=64,
        published_history_bytes_in_all=256 * MIB,
    )


def _authenticated(environ: dict[str, Any]) -> AuthResult:
    """Believe what the URL says: `?user=NAME`."""
    (user,) = parse_qs(environ["QUERY_STRING"])["user"]
    return AuthResult(valid=True, user_id=user)


class Publishers:
    """Two threads that publish numbers: one waits for each to be kept, the other does not.

    Numbers of a later life are higher.
    """

    def __init__(self, hub: Hub, record: str, life: int) -> None:
        self._hub = hub
        self._record = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._life = life
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(publisher,), name=f"publisher:{publisher}")
            for publisher in (LOOSE, FIRM)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self, publisher: int) -> None:
        chance = random.Random(self._life * 10 + publisher)
        number, burst = self._life * LIFE, 0
        while not self._stop.wait(0.0 if burst else PAUSE):
            if publisher == LOOSE:
                burst = burst - 1 if burst else chance.choice([0] * 99 + [400])
            number += 1
            channel = CHANNELS[number % len(CHANNELS)]
            wait = 10.0 if publisher == FIRM else None
            try:
                done = self._hub.send_to_channel(channel, event_of(publisher, number), wait=wait)
                claim = "unkept" if done is not None and done.seq is None else "sure"
            except WsHubError:
                claim = "unsure"
            line = f"{publisher} {number} {channel} {time.monotonic()} {claim}\n"
            os.write(self._record, line.encode())


def pages(hub: Hub, channel: str) -> dict[str, Any]:
    """Return all that is kept of a channel, page by page."""
    page = hub.history(channel, since=0, limit=1000)
    found: dict[str, Any] = {"epoch": page.epoch, "first": page.first, "messages": []}
    while page.messages:
        found["messages"] += [[each.seq, value_of(each.data)] for each in page.messages]
        page = hub.history(channel, since=page.messages[-1].seq, limit=1000)
    found["last"] = page.last
    return found


def main(port: str, file: str, record: str, life: str, clock: str) -> None:
    """Serve until the input ends."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    wall = Clock(float(clock))
    hub = Hub(config_of(file))
    blank = page_app(hub, fallback=_blank_page)
    with hub, serve(hub, port=int(port), app=blank) as server:
        publishers, pause = Publishers(hub, record, int(life)), threading.Event()

        def move_clock(offset: str) -> None:
            wall.offset = float(offset)

        def mark(number: str) -> None:
            message = event_of(MARK, int(number))
            for channel in CHANNELS:
                while hub.send_to_channel(channel, message, wait=30.0).seq is None:
                    pause.wait(0.2)  # the disk has just failed

        def users() -> list[Any]:
            return [each.user for each in hub.presence(PRESENT).members or ()]

        def read(path: str) -> None:
            with open(path, "w", encoding="utf-8") as out:
                json.dump({channel: pages(hub, channel) for channel in CHANNELS}, out)

        commands: dict[str, Callable[..., Any]] = {
            "clock": move_clock,
            "quiet": publishers.stop,
            "go": publishers.start,
            "mark": mark,
            "users": users,
            "read": read,
        }
        print(server.port, flush=True)
        for line in sys.stdin:
            name, *arguments = line.split()
            print(json.dumps(commands[name](*arguments)), flush=True)
        publishers.stop()


def _blank_page(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b"<!doctype html><title>chaos</title>"]


if __name__ == "__main__":
    main(*sys.argv[1:])
