"""The hub that is attacked: `python -m bench.servers.attacked [compression] [publish]`.

A hub on its embedded server with the default settings, but for what the two words add: it
agrees on compression; anonymous clients may publish to channels that they make up, as with
`ws-hub serve --publish 'chat:*'`. What it logs is written, to nowhere: an attacker that
makes a hub log costs it that.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import ws_hub
from ws_hub import ChannelRule, Hub, HubConfig, HubFull, Message

from ..attackers import KEPT, MADE_UP
from ..control import Answer
from ..wire import padding
from ..witness import NEWS
from .base import Publish, Server
from .hub import sized

__all__ = ["Attacked"]

_LINE = 420  # characters of a kept line, of 10,000: with what is around it above 4 MiB
_LINES = 10_000
_KEPT = 1000  # messages that a made up channel keeps: as the command line has it


class Attacked(Server):
    """The embedded server with a page beside the WebSocket, and a hub at its defaults."""

    path = "/ws"

    def __init__(self, words: Iterable[str] = ()) -> None:
        super().__init__()
        public = ChannelRule(
            pattern=f"{MADE_UP}*", history_messages=_KEPT, replay=True, publish=True
        )
        rules = [public] if "publish" in words else []
        self.hub = Hub(HubConfig(rules=rules, compression="compression" in words))

    def start(self) -> int:
        self._server = ws_hub.serve(self.hub, app=_page)
        return self._server.port

    def clients(self) -> int:
        return self.hub.client_count()

    def publisher(self, target: str, size: int, count: int) -> Publish:
        message = sized(size, target)
        return lambda: self.hub.broadcast(message)

    def requests(self) -> dict[str, Callable[..., Answer | None]]:
        own = {"keep": self.keep, "probe": self.probe, "stats": self.stats}
        return {**super().requests(), **own}

    def keep(self) -> None:
        """Fill a channel with 4 MiB of lines."""
        process = KEPT.removeprefix("process:")
        for _ in range(_LINES):
            self.hub.send_process_output(process, padding(_LINE))

    def stats(self) -> Answer:
        """Return what the hub counts."""
        return dataclasses.asdict(self.hub.stats())

    def probe(self, *, seconds: float, every: float, storm: float | None = None) -> Answer:
        """Publish to a channel on a schedule; return the time of each call in ns.

        Each message says when it was due, so that one that waits for the call before it
        is late by that, too. `dues` are of those that were published, `late` by how much
        others were when the hub was full; `unpublished` are those that were due when the
        time was over.

        Args:
            seconds: for which messages are due.
            every: seconds from one to the next.
            storm: also broadcast 16 kB, with so many seconds between two calls.
        """
        over = threading.Event()
        loop = threading.Thread(target=self._storm, args=(over, storm), daemon=True)
        if storm is not None:
            loop.start()
        calls: list[int] = []
        dues: list[int] = []
        late: list[int] = []
        began, step = time.monotonic_ns(), int(every * 1e9)
        ended, due = began + int(seconds * 1e9), began
        while due < ended and (now := time.monotonic_ns()) < ended:
            if now < due:
                time.sleep((due - now) / 1e9)
            before = time.monotonic_ns()
            try:
                self.hub.send_to_channel(NEWS, Message("event", data=f"at:{due};"))
                dues.append(due)
            except HubFull:
                late.append(time.monotonic_ns() - due)
            calls.append(time.monotonic_ns() - before)
            due += step
        over.set()
        if storm is not None:
            loop.join()
        unpublished = max(ended - due, 0) // step
        return {"ns": calls, "dues": dues, "late": late, "unpublished": unpublished}

    def _storm(self, over: threading.Event, every: float) -> None:
        message = sized(16 * 1024, "")
        while not over.wait(every):
            try:
                self.hub.broadcast(message)
            except HubFull:
                continue


def _page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = b"a page\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    logging.basicConfig(stream=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    Attacked(sys.argv[1:]).main()
