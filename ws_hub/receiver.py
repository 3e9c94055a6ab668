"""The reading half of a connection: what comes in, until it ends.

Must not know channels, JSON or the hub. Runs on the reader thread of a client; answers
pings and Close frames by way of its Sender, and hands on whole messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import CloseCode
from .frames import pong_frame
from .sender import Sender
from .transport import Binary, Broken, Closed, Event, Pinged, Text, Transport

__all__ = ["End", "receive"]

_LATE = 1.0  # seconds beyond its time at which a receive must have been held up from outside


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
    *,
    ready: Callable[[], bool],
    received: Callable[[str | bytes], None],
    silence: float,
    linger: float,
) -> End:
    """Deal with what comes in until the connection is over.

    Args:
        transport: the connection.
        sender: what answers on it.
        ready: waits until messages may be handed on; False when they must not be.
        received: gets each whole message, text or binary.
        silence: seconds without a byte that end it.
        linger: seconds that a peer which broke the rules has to read why.
    """
    while True:
        # The silence begins anew each time, and not before the callbacks: they may have
        # taken long, and what came in meanwhile is still to be read.
        began = time.monotonic()
        events = transport.receive(silence)
        if events is None:
            if time.monotonic() - began > silence + _LATE:
                # This process was stopped, or the machine: it has sent no pings, so there
                # was nothing to answer (FAULTS 34).
                continue
            reason = f"pong timeout: nothing received for {silence:g} s"
            return End(CloseCode.ABNORMAL, reason, reason)
        if not ready():
            return End(CloseCode.ABNORMAL, "refused")
        for event in events:
            end = _handle(event, transport, sender, received, linger)
            if end is not None:
                return end


def _handle(
    event: Event,
    transport: Transport,
    sender: Sender,
    received: Callable[[str | bytes], None],
    linger: float,
) -> End | None:
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
    elif isinstance(event, Broken):
        sender.finish(event.code, event.reason, now=True)
        sender.drain()
        transport.linger(linger)
        return End(event.code, event.reason, event.reason)
    return None
