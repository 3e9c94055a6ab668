"""The receive loop of a connection: handles input until the connection ends.

Runs on the reader thread of a client; answers pings and Close frames through its Sender,
and passes whole messages on.
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

_SUSPENDED = 1.0  # seconds after its timeout from which on a receive was suspended from outside
_BATCH = 16  # events that are handled before their cost is charged
_MIN_PAUSE = 0.05  # seconds: shorter pauses would cost as much as the messages
_CONTROLS = (Pinged, Ponged)
# After our Close frame the peer's input is discarded while its answer is awaited.
_LOST = Broken(CloseCode.ABNORMAL, "connection lost")
_CONTROL_FLOOD = Broken(CloseCode.POLICY, "too many pings and pongs", "control_floods")


@dataclass(frozen=True, slots=True)
class End:
    """How a connection ended, as its reader saw it.

    Args:
        code: the close code, 1006 without a Close frame (RFC 6455 section 7.1.5).
        reason: the peer's reason, or the reason why the connection was ended.
        fault: the peer's violation; "" for none.
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
    """Handle input until the connection ends.

    Args:
        transport: the connection.
        sender: sends the answers.
        config: the hub's settings: the pong timeout and the limits of input.
        ready: waits until messages may be passed on; False when they must not be.
        received: called with each whole message, text or binary.
        charge: charges the client at a given time for seconds of processor time, messages and
            control frames; returns for how many seconds it must pause.
        count: counts a limit that the peer has exceeded, by its name.
    """
    silence, linger = config.pong_timeout, config.close_timeout
    controls = _ControlFrames(config)
    # All processor time of this thread from here on is spent on the peer's input, in callbacks
    # too, as long as they do not wait. It is charged to the peer.
    spent = time.thread_time()
    # Before anything is read: the debt of this connection's payer.
    fault = _pause(charge(time.monotonic(), 0.0, 0, 0), sender, count)
    while fault is None:
        # The timeout restarts for each receive, after the callbacks: they may have taken long,
        # and input that arrived meanwhile is still to be read.
        began = time.monotonic()
        events = transport.receive(silence)
        now = time.monotonic()
        if events is None:
            if now - began > silence + _SUSPENDED:
                # This process was suspended, or the machine: it has sent no pings that could have
                # been answered (FAULTS 34).
                continue
            if sender.is_acknowledged(silence):
                continue  # it still reads bytes that were sent before the ping (FAULTS 124)
            count("pong_timeouts")
            reason = f"pong timeout: nothing received for {silence:g} s"
            return End(CloseCode.ABNORMAL, reason, reason)
        if not ready():
            return End(CloseCode.ABNORMAL, "refused")
        unsolicited = controls.unsolicited(events, now)
        if not controls.allow(unsolicited, now):
            events = [_CONTROL_FLOOD]  # before any of them is answered
        # One receive can return a thousand requests: they must not all be handled before their
        # client has to pause, nor fill the hub's queue.
        for start in range(0, len(events), _BATCH):
            some = events[start : start + _BATCH]
            messages = sum(not isinstance(event, _CONTROLS) for event in some)
            end = _handle_all(some, sender, received)
            if messages and end is None:
                # The next message may have arrived already. Then this thread would take the GIL
                # back before a thread that waits for it has woken, again and again.
                threads.yield_gil()
            before, spent = spent, time.thread_time()
            rest = charge(time.monotonic(), spent - before, messages, unsolicited)
            if isinstance(end, End):
                return end
            fault, unsolicited = end or _pause(rest, sender, count), 0
            if fault is not None:
                break
    return _close_on_fault(fault, transport, sender, linger, count)


def _pause(rest: float | Flood, sender: Sender, count: Callable[[str], None]) -> Broken | None:
    """Read nothing for a time, or return the reason to close the connection."""
    if isinstance(rest, Flood):
        return Broken(CloseCode.POLICY, rest.reason, rest.limit)
    if rest >= _MIN_PAUSE:
        # Unread input fills the network's buffers and slows the peer down. A debt below the
        # minimum remains owed.
        count("slowed")
        if not sender.pause(rest):
            return _LOST
    return None


class _ControlFrames:
    """Counts the pings and pongs of one connection, and limits them."""

    def __init__(self, config: HubConfig) -> None:
        self._allowed = Bucket(config.max_control_rate, config.control_burst)
        # The hub requests a pong once an interval; a late one and the next may come together.
        self._solicited = Bucket(2.0 / config.heartbeat_interval, 2.0)

    def unsolicited(self, events: Sequence[Event], now: float) -> int:
        """Return the number of control frames that the hub did not request."""
        pings = pongs = 0
        for event in events:
            if isinstance(event, Pinged):
                pings += 1
            elif isinstance(event, Ponged):
                pongs += 1
        return pings + (math.ceil(self._solicited.take_available(pongs, now)) if pongs else 0)

    def allow(self, controls: int, now: float) -> bool:
        """Return whether so many control frames are within the limit."""
        return not controls or self._allowed.take(controls, now) == 0.0


def _handle_all(
    events: Sequence[Event], sender: Sender, received: Callable[[str | bytes], None]
) -> End | Broken | None:
    """Handle events in order; return the event that ended the connection, if one did."""
    for event in events:
        end = event if isinstance(event, Broken) else _handle(event, sender, received)
        if end is not None:
            return end
    return None


def _handle(event: Event, sender: Sender, received: Callable[[str | bytes], None]) -> End | None:
    """Handle one event; return how the connection ended, if it did."""
    if isinstance(event, Text):
        received(event.text)
    elif isinstance(event, Binary):
        received(event.data)
    elif isinstance(event, Pinged):
        sender.control(pong_frame(event.payload))
    elif isinstance(event, Closed):
        if event.code != CloseCode.ABNORMAL:
            # RFC 6455 section 5.5.1: answer with the same code, then the server is the first to
            # close the TCP connection.
            sender.answer_close(event.code)
        return End(event.code, event.reason)
    return None


def _close_on_fault(
    fault: Broken,
    transport: Transport,
    sender: Sender,
    linger: float,
    count: Callable[[str], None],
) -> End:
    """Close on a peer that broke a rule, and give it `linger` seconds to read the reason."""
    if fault.limit:
        count(fault.limit)
    if fault is not _LOST:
        sender.finish(fault.code, fault.reason, now=True)
    sender.drain()
    transport.linger(linger)
    return End(fault.code, fault.reason, "" if fault is _LOST else fault.reason)
