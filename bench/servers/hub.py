"""ws_hub as its users run it: `serve(hub)`, published to from another thread."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import ws_hub
from ws_hub import Client, Hub, HubConfig, Message
from ws_hub.protocol.json_text import fast_encoder, to_json
from ws_hub.protocol.message import Encoder, decode, encode, timestamp
from ws_hub.protocol.publication import publish

from ..control import Answer
from ..wire import padding, report
from .base import LEVELS, REPORTS, Publish, Server

__all__ = [
    "LONG",
    "PRINTER",
    "CompressingHubServer",
    "HeartbeatingHubServer",
    "HubServer",
    "LoopingHubServer",
    "sized",
]

LONG = 300.0  # seconds that a program may take
# It fills pipes by writes that are not torn. A line of which a reader has seen the beginning may
# be published as it is so far, and a client would count it twice.
PRINTER = """
import os, select, sys
line, left = sys.argv[1].encode() + b"\\n", int(sys.argv[2])
while left:
    lines = min(select.PIPE_BUF // len(line), left)
    os.write(1, lines * line)
    left -= lines
"""
_EVENT = {
    "event": "saved",
    "data": {"id": 7, "name": "report", "tags": ["new", "long"], "load": 0.25, "done": True},
}
_SAMPLE = 64  # bytes of the data by which the size of the rest of a message is found


class HubServer(Server):
    """The embedded server with a hub at its default settings, but without heartbeats.

    The peers' are off as well: the clients of a server answer no pings while another
    server's turn lasts. The rate of messages is watched, as it is by default, but bounded
    where nobody gets.
    """

    path = "/ws"
    settings: ClassVar[dict[str, Any]] = {"heartbeat_interval": 3600.0, "pong_timeout": 7200.0}

    def __init__(self) -> None:
        super().__init__()
        # All clients of a measurement have one address: as one payer they would be slowed.
        unbounded = {"max_processing_rate": None, "max_byte_rate": None, "max_control_rate": None}
        self.hub = Hub(
            HubConfig(
                on_message=self._answer, max_message_rate=None, **{**unbounded, **self.settings}
            )
        )

    def start(self) -> int:
        self._server = ws_hub.serve(self.hub)
        return self._server.port

    def clients(self) -> int:
        return self.hub.client_count()

    def publisher(self, target: str, size: int, count: int) -> Publish:
        """Return what publishes once: broadcast for "", else by the target's prefix."""
        hub = self.hub
        if target.startswith("process:"):
            process, line = target.removeprefix("process:"), padding(size)
            return lambda: hub.send_process_output(process, line)
        if target.startswith("levels:"):
            each = itertools.cycle(
                [Message("event", data={"level": level, "text": padding(size)}) for level in LEVELS]
            )
            return lambda: hub.send_to_channel(target, next(each))
        if target:
            message = sized(size, target)
            return lambda: hub.send_to_channel(target, message)
        message = sized(size, "")
        return lambda: hub.broadcast(message)

    def requests(self) -> dict[str, Callable[..., Answer | None]]:
        own = {
            "cycle": self.cycle,
            "encode": self.encode,
            "encode_event": self.encode_event,
            "lines": self.lines,
        }
        return {**super().requests(), **own, "stats": self.stats}

    def stats(self) -> Answer:
        """Return what the hub counts."""
        return dataclasses.asdict(self.hub.stats())

    def lines(self, *, count: int, width: int, process: str) -> Answer:
        """Stream a program that prints so many lines, at the pace of its slowest viewer."""
        argv = [sys.executable, "-S", "-c", PRINTER, padding(width), str(count)]
        before = self.hub.stats().dropped
        began = time.monotonic_ns()
        code = self.hub.run_process(argv, process, backpressure=True).wait(LONG)
        if code:
            raise RuntimeError(f"the program ended with {code}")
        dropped = self.hub.stats().dropped - before
        return {"began": began, "ended": time.monotonic_ns(), "dropped": dropped}

    def encode(self, *, count: int, size: int) -> Answer:
        """Return microseconds to stamp, encode and frame a message, and to read one."""
        message = sized(size, "")
        began = time.perf_counter_ns()
        for _ in range(count):
            publish(encode(message, time.time()), "", "drop")
        encoded = time.perf_counter_ns()
        text = encode(message).decode()
        before = time.perf_counter_ns()
        for _ in range(count):
            decode(text)
        read = time.perf_counter_ns() - before
        return {"encode": (encoded - began) / count / 1000, "decode": read / count / 1000}

    def encode_event(self, *, count: int) -> Answer:
        """Return microseconds to encode an event: without orjson, and with it if it is there."""
        event, now, fast = Message("event", data=_EVENT), time.time(), fast_encoder()
        ways = {"json": to_json} if fast is to_json else {"json": to_json, "orjson": fast}
        found = {}
        for name, way in ways.items():
            encoder = Encoder(way)
            began = time.perf_counter_ns()
            for _ in range(count):
                encoder.encode(event, now)
            found[name] = (time.perf_counter_ns() - began) / count / 1000
        return found

    def cycle(self, *, count: int, threads: int) -> Answer:
        """Subscribe and unsubscribe `count` times in all, on channels that threads share."""
        clients = self.hub.all_clients()
        ready = threading.Barrier(threads + 1)

        def work(number: int) -> None:
            ready.wait()
            for turn in range(count // threads):
                client = clients[(number + turn * threads) % len(clients)]
                channel = f"cycle-{turn % 10}"
                self.hub.subscribe(client, channel)
                self.hub.unsubscribe(client, channel)

        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        began = time.monotonic_ns()
        ready.wait()
        for worker in workers:
            worker.join()
        return {"seconds": (time.monotonic_ns() - began) / 1e9}

    def _answer(self, client: Client, message: Message) -> None:
        """Answer the sender itself, or by way of everybody."""
        answer = Message("echo", data=message.data)
        if message.type == "relay":
            self.hub.broadcast(answer)
        else:
            client.send(answer)


class HeartbeatingHubServer(HubServer):
    """The same with the default heartbeats: for rows whose clients answer pings."""

    settings: ClassVar[dict[str, Any]] = {}


class LoopingHubServer(HubServer):
    """The same by a loop of sends, as where there is no io_uring."""

    settings: ClassVar[dict[str, Any]] = {**HubServer.settings, "io_uring": False}


class CompressingHubServer(HubServer):
    """The same with compression; it publishes what can be compressed."""

    settings: ClassVar[dict[str, Any]] = {**HubServer.settings, "compression": True}

    def publisher(self, target: str, size: int, count: int) -> Publish:
        fills = (functools.partial(report, number) for number in range(REPORTS))
        messages = itertools.cycle([sized(size, "", fill) for fill in fills])
        return lambda: self.hub.broadcast(next(messages))


def sized(size: int, channel: str, fill: Callable[[int], str] = padding) -> Message:
    """Return a message that the hub encodes, timestamp and all, to `size` bytes."""
    stamp = timestamp(0)
    sample = Message("event", channel=channel, data="x" * _SAMPLE, timestamp=stamp)
    around = len(encode(sample)) - _SAMPLE
    return Message("event", data=fill(size - around))
