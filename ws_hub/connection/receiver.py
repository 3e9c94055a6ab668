"""The receiving half of a connection: handles input until the connection ends.

Runs on the reader of a client; answers pings and Close frames through its Sender, and passes
whole messages on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .. import threads
from ..access.quotas import Flood
from ..access.token_bucket import Bucket
from ..config import HubConfig
from ..errors import CloseCode
from ..protocol.frames import pong_frame
from .sender import Sender
from .transport import Binary, Broken, Closed, Event, Pinged, Ponged, Text, Transport

__all__ = ["End", "Peer", "Receiver"]

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


class Peer(Protocol):
    """The peer of a connection, as its reader has to treat it."""

    def is_ready(self) -> bool:
        """Wait until its messages may be passed on; False when they must not be."""

    def take(self, data: str | bytes) -> None:
        """Take one whole message, text or binary."""

    def charge(self, now: float, seconds: float, messages: int, controls: int) -> float | Flood:
        """Charge it for seconds of processor time, messages and control frames.

        Returns for how many seconds it must pause.
        """

    def count(self, name: str) -> None:
        """Count a limit that it has exceeded, by its name."""

    def will_wait(self) -> None:
        """Note that its reader is about to wait for something other than input."""


class Receiver:
    """Handles the input of one connection.

    Args:
        transport: the connection.
        sender: sends the answers.
        config: the hub's settings: the pong timeout and the limits of input.
        peer: whose input it is.
    """

    __slots__ = ("_controls", "_fresh", "_linger", "_peer", "_sender", "_silence", "_transport")

    def __init__(self, transport: Transport, sender: Sender, config: HubConfig, peer: Peer) -> None:
        self._transport = transport
        self._sender = sender
        self._silence, self._linger = config.pong_timeout, config.close_timeout
        self._controls = _ControlFrames(config)
        self._peer = peer
        self._fresh = True  # nothing was read yet

    def run(self) -> End:
        """Handle input until the connection ends."""
        while True:
            # The timeout restarts for each receive, after the callbacks: they may have taken
            # long, and input that arrived meanwhile is still to be read.
            began = time.monotonic()
            end = self.turn(self._silence)
            if end is False:
                end = self.judge_silence(began, time.monotonic()) or False
            if isinstance(end, End):
                return end

    def turn(self, timeout: float) -> End | bool:
        """Handle one receive, for which it waits at most `timeout` seconds.

        Returns how the connection ended, if it did; else whether anything came.
        """
        peer, fault = self._peer, None
        # All processor time of this thread from here on is spent on the peer's input, in
        # callbacks too, as long as they do not wait. It is charged to the peer.
        spent = time.thread_time()
        if self._fresh:
            self._fresh = False
            # Before anything is read: the debt of this connection's payer.
            fault = self._pause(peer.charge(time.monotonic(), 0.0, 0, 0))
            if fault is not None:
                return self._close_on_fault(fault)
        events: Sequence[Event] | None = self._transport.receive(timeout)
        if events is None:
            return False
        now = time.monotonic()
        if not peer.is_ready():
            return End(CloseCode.ABNORMAL, "refused")
        unsolicited = self._controls.unsolicited(events, now)
        if not self._controls.allow(unsolicited, now):
            events = [_CONTROL_FLOOD]  # before any of them is answered
        # One receive can return a thousand requests: they must not all be handled before their
        # client has to pause, nor fill the hub's queue.
        for start in range(0, len(events), _BATCH):
            some = events[start : start + _BATCH]
            messages = sum(not isinstance(event, _CONTROLS) for event in some)
            end = _handle_all(some, self._sender, peer)
            if messages and end is None:
                # The next message may have arrived already. Then this thread would take the GIL
                # back before a thread that waits for it has woken, again and again.
                threads.yield_gil()
            before, spent = spent, time.thread_time()
            rest = peer.charge(time.monotonic(), spent - before, messages, unsolicited)
            if isinstance(end, End):
                return end
            fault, unsolicited = end or self._pause(rest), 0
            if fault is not None:
                break
        return True if fault is None else self._close_on_fault(fault)

    def judge_silence(self, since: float, noticed: float) -> End | None:
        """Return how the connection ends of a peer that was silent for the pong timeout.

        `since` is when the wait for it began, `noticed` when it was seen to be too long, in
        monotonic seconds. None when it may live.
        """
        silence = self._silence
        if noticed - since > silence + _SUSPENDED:
            # This process was suspended, or the machine: it has sent no pings that could have
            # been answered (FAULTS 34).
            return None
        if self._sender.is_acknowledged(silence):
            return None  # it still reads bytes that were sent before the ping (FAULTS 124)
        self._peer.count("pong_timeouts")
        reason = f"pong timeout: nothing received for {silence:g} s"
        return End(CloseCode.ABNORMAL, reason, reason)

    def _pause(self, rest: float | Flood) -> Broken | None:
        """Read nothing for a time, or return the reason to close the connection."""
        if isinstance(rest, Flood):
            return Broken(CloseCode.POLICY, rest.reason, rest.limit)
        if rest >= _MIN_PAUSE:
            # Unread input fills the network's buffers and slows the peer down. A debt below the
            # minimum remains owed.
            self._peer.count("slowed")
            self._peer.will_wait()
            if not self._sender.pause(rest):
                return _LOST
        return None

    def _close_on_fault(self, fault: Broken) -> End:
        """Close on a peer that broke a rule, and give it some time to read the reason."""
        if fault.limit:
            self._peer.count(fault.limit)
        self._peer.will_wait()
        if fault is not _LOST:
            self._sender.finish(fault.code, fault.reason, now=True)
        self._sender.drain()
        self._transport.linger(self._linger)
        return End(fault.code, fault.reason, "" if fault is _LOST else fault.reason)


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


def _handle_all(events: Sequence[Event], sender: Sender, peer: Peer) -> End | Broken | None:
    """Handle events in order; return the event that ended the connection, if one did."""
    for event in events:
        end = event if isinstance(event, Broken) else _handle(event, sender, peer)
        if end is not None:
            return end
    return None


def _handle(event: Event, sender: Sender, peer: Peer) -> End | None:
    """Handle one event; return how the connection ended, if it did."""
    if isinstance(event, Text):
        peer.take(event.text)
    elif isinstance(event, Binary):
        peer.take(event.data)
    elif isinstance(event, Pinged):
        sender.control(pong_frame(event.payload))
    elif isinstance(event, Closed):
        if event.code != CloseCode.ABNORMAL:
            # RFC 6455 section 5.5.1: answer with the same code, then the server is the first to
            # close the TCP connection.
            if not sender.answer_close(event.code):
                peer.will_wait()
                sender.drain()
        return End(event.code, event.reason)
    return None
