"""What is done with bytes that nobody meant: each target takes some, and must not raise.

A target returns for every input; an exception is a finding, whatever it is: no exception is
accepted. Run guided by coverage (`tests.fuzz.guided`), by hypothesis, and over what was
found once (`FOUND`).
"""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.support import TIMEOUT, RawPeer
from ws_hub.config import ChannelRule, HubConfig
from ws_hub.connection.transport import (
    Binary,
    Broken,
    Closed,
    Event,
    Pinged,
    Ponged,
    Text,
    Transport,
)
from ws_hub.errors import CloseCode, MessageDecodeError, MessageEncodeError, ProtocolError
from ws_hub.hub.hub import Hub
from ws_hub.protocol import compression as deflate
from ws_hub.protocol.message import decode, encode, split_batch
from ws_hub.protocol.names import is_channel_name
from ws_hub.protocol.requests import Other, Publish, Reply, Subscribe, Unsubscribe, interpret

__all__ = ["FOUND", "SEEDS", "TARGETS"]

LIMIT = 200  # bytes in one message
FRAGMENTS = 8
ENDS = (Closed, Broken)


# --- frames --------------------------------------------------------------------------------


def _events(early: bytes, rest: bytes, compression: bool) -> list[Event]:
    """Return the events of bytes that came with the handshake, and of those that came later."""
    near, far = socket.socketpair()
    with near, far:
        transport = Transport(
            near,
            max_message_size=LIMIT,
            max_fragments=FRAGMENTS,
            compression=compression,
            received=early,
        )
        far.settimeout(TIMEOUT)
        far.sendall(rest)  # the kernel has room for much more than an input
        far.shutdown(socket.SHUT_WR)
        found: list[Event] = []
        while not (found and isinstance(found[-1], ENDS)):
            events = transport.receive(TIMEOUT)
            assert events is not None
            found += events
        transport.close()
    assert not any(isinstance(event, ENDS) for event in found[:-1])
    # No Close frame may have that code: it stands for the end of what was sent here.
    return found[:-1] if found[-1] == Closed(CloseCode.ABNORMAL, "connection lost") else found


def frames(data: bytes, compression: bool = False) -> None:
    """Bytes from a peer, as they come and cut in two: the same events, within the limits."""
    if not data:
        return
    cut, data = data[0], data[1:]
    whole = _events(b"", data, compression)
    torn = _events(data[:cut], data[cut:], compression)
    for event in whole:
        if isinstance(event, Text):
            assert len(event.text.encode()) <= LIMIT
        elif isinstance(event, Binary):
            assert len(event.data) <= LIMIT
        elif isinstance(event, Pinged):
            assert len(event.payload) <= 125
        elif isinstance(event, Broken):
            assert event.code in (1002, 1007, 1008, 1009), event
        else:
            assert isinstance(event, (Ponged, Closed)), event
    # What ends a connection may be seen a piece sooner; what came before it is the same.
    ended = isinstance(whole[-1] if whole else None, ENDS)
    assert ended is isinstance(torn[-1] if torn else None, ENDS), (whole, torn)
    assert whole[: len(whole) - ended] == torn[: len(torn) - ended], (whole, torn)


def packed(data: bytes) -> None:
    """The same where compression was agreed on."""
    frames(data, compression=True)


def extensions(data: bytes) -> None:
    """A header about extensions, from a client and from a server."""
    text = data.decode("latin-1")
    assert deflate.agree(text) in ("", deflate.AGREED)
    try:
        deflate.check_answer(text)
    except ProtocolError as error:
        assert "\n" not in str(error) and len(str(error)) < 300


# --- messages ------------------------------------------------------------------------------


def message(data: bytes) -> None:
    """A text from a peer: an effect, or an error that can be answered."""
    text = data.decode("utf-8", "replace")
    for piece in split_batch(text):
        assert piece in text
    interpret(text, is_channel_name, any_case=True)
    effect = interpret(text, is_channel_name)
    if isinstance(effect, Reply):
        answer = encode(effect.message)
        assert len(answer) <= 12 * len(data) + 500  # it repeats an id, and little beside it
        decode(answer.decode())
    elif isinstance(effect, (Subscribe, Publish)):
        assert is_channel_name(effect.channel)
    else:
        assert isinstance(effect, (Unsubscribe, Other))
    try:
        read = decode(text)
    except MessageDecodeError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    with contextlib.suppress(MessageEncodeError):  # nested more deeply than can be said again
        again = decode(encode(read).decode())
        assert replace(again, data=None) == replace(read, data=None)
        assert _alike(again.data, read.data)


def _alike(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except RecursionError:
        return True


# --- a session -----------------------------------------------------------------------------


class _Session:
    """A hub with one client, which says what it is told to and waits until that is handled."""

    def __init__(self) -> None:
        config = HubConfig(
            rules=[ChannelRule(pattern="open*", publish=True, history_messages=10)],
            on_message=lambda client, message: message.data,
            max_subscriptions=20,
            max_message_rate=None,
            max_processing_rate=None,
        )
        self.hub = Hub(config).start()
        near, self.far = socket.socketpair()
        self.client = self.hub.connect(near, greeting=b"101")
        self.client.start()
        assert self.far.recv(3, socket.MSG_WAITALL) == b"101"  # both of its threads are there
        self.far.settimeout(TIMEOUT)
        self.peer = RawPeer.on(self.far)
        self.said = 0

    def say(self, text: str) -> None:
        self.said += 1
        mark = f"said {self.said}"
        self.peer.send_text(text)
        self.peer.send_json({"type": "ping", "id": mark})
        while self.peer.recv_json().get("id") != mark:
            pass
        assert self.hub.running
        assert len(self.client.subscriptions()) <= 20


@functools.cache
def the_session() -> _Session:
    return _Session()


def session(data: bytes) -> None:
    """Texts from a peer, each in a line, carried out by a hub."""
    for text in data.decode("utf-8", "replace").split("\n"):
        the_session().say(text)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames,
    "packed": packed,
    "extensions": extensions,
    "message": message,
    "session": session,
}


# --- where to begin ------------------------------------------------------------------------


def frame_of(first: int, payload: bytes) -> bytes:
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return bytes([first]) + length + b"\0\0\0\0" + payload


def deflated_of(data: bytes, first: int = 0xC1) -> bytes:
    return frame_of(first, deflate.finish(deflate.begin(data)))


def _texts() -> Iterator[str]:
    yield '{"type":"ping","id":1}'
    yield '{"type":"subscribe","channel":"open","data":"open","since":0,"epoch":"x","id":"a"}'
    yield '{"type":"subscribe","channel":"open:1","last":3,"id":2}'
    yield '{"type":"unsubscribe","data":"open","id":3}'
    yield '{"type":"publish","channel":"open","data":{"a":[1,2.5,true,null,"\\ud83d\\ude00"]}}'
    yield '{"type":"other","processId":"p","timestamp":"2026-02-20T01:17:56.123456Z","code":"c"}'
    yield '{"type":"x","id":"' + "9" * 300 + '","seq":17}'
    yield '{"type":"x","data":"\\ud800"}'
    yield "[" * 50 + "]" * 50


SEEDS: dict[str, list[bytes]] = {
    "message": [text.encode() for text in _texts()],
    "session": ["\n".join(_texts()).encode(), *(text.encode() for text in _texts())],
    "frames": [
        b"\x05" + frame_of(0x81, b'{"type":"ping"}') + frame_of(0x89, b"x") + frame_of(0x8A, b""),
        b"\x08" + frame_of(0x01, b"\xc3") + frame_of(0x89, b"between") + frame_of(0x80, b"\xa4"),
        b"\x02" + frame_of(0x82, b"x" * LIMIT) + frame_of(0x81, b"x" * (LIMIT + 1)),
        b"\x00" + frame_of(0x01, b"") + frame_of(0x00, b"") * FRAGMENTS,
        b"\x03" + frame_of(0x88, b"\x03\xe8bye") + b"after",
        b"\xfa" + frame_of(0x81, b"x" * 150) * 6,  # more than one receive returns at once
        b"\x09" + frame_of(0x81, b"\xed\xa0\x80"),
        b"\x01" + b"\x81\xff" + b"\x7f" * 8 + b"\0\0\0\0x",
        b"\x04" + frame_of(0xC1, b"rsv") + b"\x81\x01x",
    ],
    "packed": [
        b"\x04" + deflated_of(b'{"type":"ping"}') + deflated_of(b"\0" * LIMIT, 0xC2),
        b"\x05" + deflated_of(b"x" * (LIMIT + 1)) + frame_of(0x81, b"plain"),
        b"\x09" + deflated_of(b"one ", 0x41) + frame_of(0x89, b"between") + frame_of(0x80, b""),
        b"\x06" + frame_of(0x41, b"\xf2\x48\xcd") + frame_of(0x80, b"\xc9\xc9\x07\x00"),
        b"\x02" + frame_of(0xC1, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00") + frame_of(0xC9, b""),
        b"\x03" + frame_of(0xC1, b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"),
        b"\x07" + frame_of(0xC2, b"\0\0\0\xff\xff" * 30),
    ],
    "extensions": [
        b'permessage-deflate; client_max_window_bits="15"; server_max_window_bits=8, x',
        deflate.AGREED.encode(),
    ],
}

# What once raised, so that it is tried again for ever: (target, bytes).
FOUND: list[tuple[str, bytes]] = [
    # Nested so deeply that it could be read and not be passed on: the reader thread died. At
    # which depth that is, depends on the calls below it.
    (
        "session",
        b"\n".join(
            b'{"type":"publish","channel":"open","data":' + b"[" * depth + b"]" * depth + b"}"
            for depth in range(800, 1000)
        ),
    ),
]
