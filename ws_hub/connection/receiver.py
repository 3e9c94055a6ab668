"""The reading half of a connection: what comes in, until it ends.

Must not know channels, JSON or the hub. Runs on the reader thread of a client; answers
pings and Close frames by way of its Sender, and hands on whole messages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import threads
from ..access.quotas import Flood
from ..access.token_bucket import Bucket
from ..config import HubConfig
from ..errors import CloseCode
from ..protocol.frames import pong_frame
from .sender import Sender
from .transport import Binary, Broken, Closed, Event, Pinged, Ponged, Text, Transport

__all__ = ["End", "receive"]

_LATE = 1.0  # seconds beyond its time at which a receive must have been held up from outside
_AT_ONCE = 16  # events that are dealt with before what they cost is charged
_LEAST_REST = 0.05  # seconds: short rests would be as much work as the messages
_CONTROLS = (Pinged, Ponged)
# What a peer sends after our Close frame is thrown away if it must be waited for.
_OVER = Broken(CloseCode.ABNORMAL, "connection lost")
_CONTROL_FLOOD = Broken(CloseCode.POLICY, "too many pings and pongs", "control_floods")


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
    charge: Callable[[float, float, int, int], float | Flood],
    count: Callable[[str], None],
) -> End:
    """Deal with what comes in until the connection is over.

    Args:
        transport: the connection.
        sender: what answers on it.
        config: the hub's settings: how long a silence may be, and how much may come.
        ready: waits until messages may be handed on; False when they must not be.
        received: gets each whole message, text or binary.
        charge: charges the client, at a moment, for seconds of processor time, messages, and
            control frames; returns how long it must rest.
        count: counts, by its name, a limit that the peer has met.
    """
    silence, linger = config.pong_timeout, config.close_timeout
    controls = _Controls(config)
    # All that this thread computes from here on, it does because of what the peer sent: in
    # callbacks too, as long as they do not wait. That is what a peer pays for.
    spent = time.thread_time()
    # Before anything is read: what this connection's payer owes already.
    fault = _rest(charge(time.monotonic(), 0.0, 0, 0), sender, count)
    while fault is None:
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
        unasked = controls.unasked(events, now)
        if not controls.allow(unasked, now):
            events = [_CONTROL_FLOOD]  # before one of them is answered
        # One receive can bring a thousand requests: not all of them are dealt with before
        # their client is to rest, nor may they fill the hub's queue for others.
        for start in range(0, len(events), _AT_ONCE):
            some = events[start : start + _AT_ONCE]
            messages = sum(not isinstance(event, _CONTROLS) for event in some)
            end = _handle_all(some, sender, received)
            if messages and end is None:
                # The next message may be there already. Then this thread would have the GIL
                # back before one that was told that it is free has woken, again and again.
                threads.give_way()
            before, spent = spent, time.thread_time()
            rest = charge(time.monotonic(), spent - before, messages, unasked)
            if isinstance(end, End):
                return end
            fault, unasked = end or _rest(rest, sender, count), 0
            if fault is not None:
                break
    return _break(fault, transport, sender, linger, count)


def _rest(rest: float | Flood, sender: Sender, count: Callable[[str], None]) -> Broken | None:
    """Read nothing for a time, or return why no more is to be read at all."""
    if isinstance(rest, Flood):
        return Broken(CloseCode.POLICY, rest.reason, rest.limit)
    if rest >= _LEAST_REST:
        # What is not read fills the network's buffers, and slows the peer down. What is owed
        # for less stays owed.
        count("slowed")
        if not sender.rest(rest):
            return _OVER
    return None


class _Controls:
    """The pings and pongs of one connection: how many come, and how many may."""

    def __init__(self, config: HubConfig) -> None:
        self._allowed = Bucket(config.max_control_rate, config.control_burst)
        # The hub asks for a pong once an interval; a late one and the next may come together.
        self._asked_for = Bucket(2.0 / config.heartbeat_interval, 2.0)

    def unasked(self, events: Sequence[Event], now: float) -> int:
        """Return how many control frames there are that nobody asked for."""
        pings = pongs = 0
        for event in events:
            if isinstance(event, Pinged):
                pings += 1
            elif isinstance(event, Ponged):
                pongs += 1
        return pings + (math.ceil(self._asked_for.take_available(pongs, now)) if pongs else 0)

    def allow(self, controls: int, now: float) -> bool:
        """Say whether so many control frames are no more than may come."""
        return not controls or self._allowed.take(controls, now) == 0.0


def _handle_all(
    events: Sequence[Event], sender: Sender, received: Callable[[str | bytes], None]
) -> End | Broken | None:
    """Deal with events in order; return what ended the connection, if something did."""
    for event in events:
        end = event if isinstance(event, Broken) else _handle(event, sender, received)
        if end is not None:
            return end
    return None


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
    if fault is not _OVER:
        sender.finish(fault.code, fault.reason, now=True)
    sender.drain()
    transport.linger(linger)
    return End(fault.code, fault.reason, "" if fault is _OVER else fault.reason)
