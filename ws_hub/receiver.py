"""The reading half of a connection: what comes in, until it ends.

Must not know channels, JSON or the hub. Runs on the reader thread of a client; answers
pings and Close frames by way of its Sender, and hands on whole messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import workers
from .config import HubConfig
from .errors import CloseCode
from .frames import pong_frame
from .limits import Allowance, Bucket
from .sender import Sender
from .transport import Binary, Broken, Closed, Event, Pinged, Ponged, Text, Transport

__all__ = ["End", "receive"]

_LATE = 1.0  # seconds beyond its time at which a receive must have been held up from outside
_LEAST_REST = 0.05  # seconds: short rests would be as much work as the messages
_CONTROL_FLOOD = Broken(CloseCode.POLICY, "too many pings and pongs", "control_floods")
_MESSAGE_FLOOD = Broken(CloseCode.POLICY, "too many messages", "message_floods")


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended, as its reader saw it.

    Args:
        code: the close code, 1006 where nobody said one (RFC 6455 section 7.1.5).
        reason: what the peer said, or what ended it.
        fault: what the peer did wrong; "" for nothing.
    """

    code: int
    reason: str
    fault: str = ""


def receive(
    transport: Transport,
    sender: Sender,
    config: HubConfig,
    *,
    ready: Callable[[], bool],
    received: Callable[[str | bytes], None],
    count: Callable[[str], None],
) -> End:
    """Deal with what comes in until the connection is over.

    Args:
        transport: the connection.
        sender: what answers on it.
        config: the hub's settings: how long a silence may be, and how much may come.
        ready: waits until messages may be handed on; False when they must not be.
        received: gets each whole message, text or binary.
        count: counts, by its name, a limit that the peer has met.
    """
    silence, linger = config.pong_timeout, config.close_timeout
    allowance = Allowance(
        Bucket(config.max_message_rate, config.message_burst),
        Bucket(config.max_control_rate, config.control_burst),
        config.flood_timeout,
    )
    while True:
        # The silence begins anew each time, and not before the callbacks: they may have
        # taken long, and what came in meanwhile is still to be read.
        began = time.monotonic()
        events = transport.receive(silence)
        now = time.monotonic()
        if events is None:
            if now - began > silence + _LATE:
                # This process was stopped, or the machine: it has sent no pings, so there
                # was nothing to answer (FAULTS 34).
                continue
            if sender.is_acknowledged(silence):
                continue  # it reads what was sent before our ping (FAULTS 124)
            count("pong_timeouts")
            reason = f"pong timeout: nothing received for {silence:g} s"
            return End(CloseCode.ABNORMAL, reason, reason)
        if not ready():
            return End(CloseCode.ABNORMAL, "refused")
        controls = _controls_among(events)
        if controls and not allowance.allows(controls, now):
            events = [_CONTROL_FLOOD]  # before one of them is answered
        for event in events:
            if isinstance(event, Broken):
                return _break(event, transport, sender, linger, count)
            end = _handle(event, sender, received)
            if end is not None:
                return end
        if len(events) > controls:
            # The next message may be there already. Then this thread would have the GIL
            # back before one that was told that it is free has woken, again and again.
            workers.give_way()
            rest = allowance.rest(len(events) - controls, now)
            if rest is None:
                return _break(_MESSAGE_FLOOD, transport, sender, linger, count)
            if rest:
                # What is not read fills the network's buffers, and slows the peer down.
                count("slowed")
                sender.rest(max(rest, _LEAST_REST))


def _controls_among(events: Sequence[Event]) -> int:
    controls = 0
    for event in events:
        if isinstance(event, (Pinged, Ponged)):
            controls += 1
    return controls


def _handle(event: Event, sender: Sender, received: Callable[[str | bytes], None]) -> End | None:
    """Deal with one event; return how the connection ended, if it did."""
    if isinstance(event, Text):
        received(event.text)
    elif isinstance(event, Binary):
        received(event.data)
    elif isinstance(event, Pinged):
        sender.control(pong_frame(event.payload))
    elif isinstance(event, Closed):
        if event.code != CloseCode.ABNORMAL:
            # RFC 6455 section 5.5.1: answer with the same code, then the server
            # is the first to close the TCP connection.
            sender.answer_close(event.code)
        return End(event.code, event.reason)
    return None


def _break(
    fault: Broken,
    transport: Transport,
    sender: Sender,
    linger: float,
    count: Callable[[str], None],
) -> End:
    """Close on a peer that broke a rule, and give it `linger` seconds to read why."""
    if fault.limit:
        count(fault.limit)
    sender.finish(fault.code, fault.reason, now=True)
    sender.drain()
    transport.linger(linger)
    return End(fault.code, fault.reason, fault.reason)
