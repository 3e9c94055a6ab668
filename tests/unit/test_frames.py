"""Frames as bytes, read back by another implementation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from ws_hub.errors import CloseCode
from ws_hub.protocol.frames import (
    MAX_CONTROL_BYTES,
    binary_frame,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)

BOUNDARIES = [0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 200_000]


def read(data: bytes) -> list[Event]:
    """What a client that is not ours makes of the bytes."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(data)
    return list(client.events())


def joined(events: list[Event]) -> bytes | str:
    """The payload of one message, which wsproto may hand on in pieces."""
    pieces = [event.data for event in events]  # type: ignore[attr-defined]
    assert [event.message_finished for event in events][-1]  # type: ignore[attr-defined]
    return pieces[0][:0].join(pieces)


@pytest.mark.parametrize("size", BOUNDARIES)
def test_a_text_frame_of_any_size_is_read_back(size: int) -> None:
    events = read(text_frame(b"x" * size))

    assert all(isinstance(event, TextMessage) for event in events)
    assert joined(events) == "x" * size


@pytest.mark.parametrize("size", BOUNDARIES)
def test_a_binary_frame_of_any_size_is_read_back(size: int) -> None:
    events = read(binary_frame(b"\xff" * size))

    assert all(isinstance(event, BytesMessage) for event in events)
    assert joined(events) == b"\xff" * size


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_the_length_is_written_in_its_shortest_form(size: int, head: bytes) -> None:
    assert text_frame(b"x" * size) == head + b"x" * size


def test_text_beyond_ascii_is_counted_in_bytes() -> None:
    assert text_frame("é".encode()) == b"\x81\x02\xc3\xa9"


def test_a_ping_and_a_pong_carry_their_payload() -> None:
    assert ping_frame() == b"\x89\x00"
    assert pong_frame() == b"\x8a\x00"
    assert read(ping_frame(b"abc") + pong_frame(b"def")) == [Ping(b"abc"), Pong(b"def")]


@pytest.mark.parametrize("make", [ping_frame, pong_frame])
def test_a_control_frame_carries_125_bytes_and_no_more(make: object) -> None:
    assert callable(make)
    assert len(make(b"x" * MAX_CONTROL_BYTES)) == 2 + MAX_CONTROL_BYTES
    with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
        make(b"x" * (MAX_CONTROL_BYTES + 1))


def test_a_close_frame_carries_code_and_reason() -> None:
    assert close_frame(1001, "bye") == b"\x88\x05\x03\xe9bye"
    assert close_frame(CloseCode.NORMAL) == b"\x88\x02\x03\xe8"
    assert read(close_frame(4401, "expired")) == [CloseConnection(4401, "expired")]


def test_a_close_without_a_status_is_an_empty_frame() -> None:
    assert close_frame(CloseCode.NO_STATUS, "not sent") == b"\x88\x00"


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, -1, 65_536])
def test_a_code_that_must_not_be_on_the_wire_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code} "):
        close_frame(code)


@pytest.mark.parametrize(
    "code",
    [
        1000,
        1001,
        1002,
        1003,
        1007,
        1008,
        1009,
        1010,
        1011,
        1012,
        1013,
        3000,
        3999,
        4000,
        4999,
    ],
)
def test_a_code_that_may_be_on_the_wire_is_sent(code: int) -> None:
    assert read(close_frame(code)) == [CloseConnection(code, "")]


def test_the_code_of_a_bad_gateway_is_sent_though_wsproto_does_not_know_it() -> None:
    assert close_frame(1014) == b"\x88\x02\x03\xf6"


@pytest.mark.parametrize("character", ["x", "é", "€", "\U0001f600"])
@pytest.mark.parametrize("before", range(4))
def test_a_long_reason_is_cut_between_characters(character: str, before: int) -> None:
    frame = close_frame(1000, "a" * before + character * 200)

    (event,) = read(frame)
    assert isinstance(event, CloseConnection)
    assert event.reason is not None
    size = len(character.encode())
    assert set(event.reason) <= {"a", character}
    assert 123 - size < len(event.reason.encode()) <= 123


def test_a_reason_with_a_lone_surrogate_is_sent_without_it() -> None:
    assert close_frame(1000, "a\ud800b") == b"\x88\x05\x03\xe8a?b"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_joined_frames_are_read_one_by_one(texts: list[str]) -> None:
    data = b"".join(text_frame(text.encode()) for text in texts)

    assert [event.data for event in read(data) if isinstance(event, TextMessage)] == texts


@given(st.text(), st.sampled_from([code for code in CloseCode if code != 1006]))
def test_a_close_frame_of_any_reason_fits_and_is_utf8(reason: str, code: CloseCode) -> None:
    frame = close_frame(code, reason)

    assert len(frame) <= 2 + MAX_CONTROL_BYTES
    (event,) = read(frame)
    assert isinstance(event, CloseConnection)
    assert event.code == code
