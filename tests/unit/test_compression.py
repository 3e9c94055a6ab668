"""permessage-deflate: what is agreed on, messages there and back, and what is refused."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from tests.support import BINARY, CONTINUATION, MAX_RATIO, PING, TEXT, RawPeer, deflated
from ws_hub.errors import ProtocolError
from ws_hub.protocol.compression import (
    AGREED,
    Inflater,
    Inflation,
    agree,
    begin,
    check_answer,
    finish,
)

frame = RawPeer.frame
RSV1 = 4


def inflated(payload: bytes, size: int = 1 << 20, step: int = 1 << 20) -> bytes:
    inflater = Inflater(size)
    pieces = [payload[at : at + step] for at in range(0, len(payload), step)]
    return b"".join([inflater.feed(piece) for piece in pieces]) + inflater.finish()


# --- what is agreed on ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "offers",
    [
        "permessage-deflate",
        "Permessage-Deflate ; Client_Max_Window_Bits",
        "permessage-deflate; client_max_window_bits=8",
        'permessage-deflate; client_max_window_bits="15"; server_max_window_bits="15"',
        "permessage-deflate;server_no_context_takeover;client_no_context_takeover",
        "x-webkit-deflate-frame, permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=10, permessage-deflate",
    ],
)
def test_an_offer_without_context_takeover_is_accepted(offers: str) -> None:
    assert agree(offers) == AGREED


@pytest.mark.parametrize(
    "offers",
    [
        "",
        ",",
        "x-webkit-deflate-frame",
        "permessage-deflate2",
        "permessage-bzip2; permessage-deflate",
        "permessage-deflate; ",
        "permessage-deflate; unheard_of",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=015",
        "permessage-deflate; client_max_window_bits=١٥",
        'permessage-deflate; client_max_window_bits=""',
        'permessage-deflate; client_max_window_bits="15',
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=14",  # RFC 7692 allows to decline it
        "permessage-deflate; server_max_window_bits=15; server_max_window_bits=15",
    ],
)
def test_anything_else_is_declined(offers: str) -> None:
    assert agree(offers) == ""


@pytest.mark.parametrize(
    "answer",
    [
        AGREED,
        "permessage-deflate; server_no_context_takeover",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=8",
    ],
)
def test_an_answer_to_our_own_offer_is_accepted(answer: str) -> None:
    check_answer(answer)


# --- out -----------------------------------------------------------------------------------


@given(st.binary(max_size=3000), st.binary(max_size=100))
def test_a_message_can_be_ended_after_it_was_compressed(data: bytes, rest: bytes) -> None:
    stream = zlib.decompressobj(-15)
    payload = finish(begin(data), rest)
    assert stream.decompress(payload + b"\x00\x00\xff\xff") == data + rest
    assert not stream.unused_data


def test_the_longest_end_is_one_stored_block() -> None:
    assert inflated(finish(begin(b"a"), b"b" * 65_535)) == b"a" + b"b" * 65_535


# --- in ------------------------------------------------------------------------------------


@given(st.binary(max_size=5000), st.integers(1, 400), st.sampled_from([0, 1, 9]))
def test_a_message_is_inflated_whatever_pieces_it_comes_in(
    data: bytes, step: int, level: int
) -> None:
    assert inflated(deflated(data, level), size=len(data), step=step) == data


@pytest.mark.parametrize(
    "payload",
    [
        "f248cdc9c90700",  # RFC 7692 section 7.2.3.1: one block
        "f24805000000ffffcac9c90700",  # 7.2.3.5: two blocks
        "000500faff48656c6c6f00",  # 7.2.3.3: not compressed
        "f348cdc9c9070000",  # 7.2.3.4: the last block says that it is
        "f348cdc9c90700",  # the same by one that forgot the byte behind it
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_the_examples_of_the_rfc_are_inflated(payload: str, step: int) -> None:
    assert inflated(bytes.fromhex(payload), step=step) == b"Hello"


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("size", [0, 1, 1000, 65_536])
def test_a_message_of_the_limit_is_inflated_and_one_byte_more_is_refused(
    size: int, step: int
) -> None:
    assert inflated(deflated(b"x" * size), size, step) == b"x" * size
    with pytest.raises(ProtocolError, match="inflates to too much") as raised:
        inflated(deflated(b"x" * (size + 1)), size, step)
    assert raised.value.code == 1009


def test_fault_12_a_bomb_is_inflated_no_further_than_the_limit() -> None:
    bomb = deflated(b"\0" * (1 << 26))
    assert len(bomb) < 1 << 17
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            Inflater(1 << 16).feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 10 * (1 << 16)
    finally:
        tracemalloc.stop()


def test_fault_12_blocks_that_inflate_to_nothing_are_limited() -> None:
    inflater = Inflater(1000)
    with pytest.raises(ProtocolError, match="too long") as raised:
        for _ in range(1000):
            assert inflater.feed(b"\x00\x00\x00\xff\xff") == b""
    assert raised.value.code == 1009


@pytest.mark.parametrize("behind", [b"\x00\x00", b"x", b"\x00" * 1000])
@pytest.mark.parametrize("step", [1, 5000])
def test_data_behind_the_last_block_is_refused_and_not_kept(behind: bytes, step: int) -> None:
    with pytest.raises(ProtocolError, match="behind the end") as raised:
        inflated(bytes.fromhex("f348cdc9c90700") + behind, step=step)
    assert raised.value.code == 1007


@pytest.mark.parametrize("payload", [b"\xff", b"\x07", bytes(random.Random(1).randbytes(50))])
def test_invalid_compressed_data_is_1007(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="bad compressed data") as raised:
        inflated(payload)
    assert raised.value.code == 1007


def test_zlibs_highest_ratio_is_at_most_max_ratio() -> None:
    assert (1 << 26) / MAX_RATIO <= len(deflated(b"\0" * (1 << 26)))


# --- in the parser -------------------------------------------------------------------------


def events(*frames: bytes, size: int = 1000) -> tuple[list[object], Inflation]:
    """What the parser makes of frames: whole messages, ping payloads, close codes."""
    inflation = Inflation(size)
    parser = Connection(ConnectionType.SERVER, [inflation])
    parser.receive_data(b"".join(frames))
    found: list[object] = []
    parts: list[str | bytes] = []
    for event in parser.events():
        if isinstance(event, (TextMessage, BytesMessage)):
            parts.append(event.data)
            if event.message_finished:
                found.append(event.data[:0].join(parts))  # type: ignore[arg-type]
                parts = []
        elif isinstance(event, Ping):
            found.append(bytes(event.payload))
        else:
            assert isinstance(event, CloseConnection)
            found.append(int(event.code))
    return found, inflation


def test_the_parsers_extension_offers_nothing() -> None:
    inflation = Inflation(1)
    assert inflation.enabled() and not inflation.offer()


def test_fault_13_a_ping_between_the_pieces_of_a_message_changes_nothing() -> None:
    payload = deflated(b"hello compressed world")
    found, _ = events(
        frame(TEXT, payload[:6], fin=False, rsv=RSV1),
        frame(PING, b"between"),
        frame(CONTINUATION, payload[6:9], fin=False),
        frame(PING, b""),
        frame(CONTINUATION, payload[9:]),
        frame(BINARY, b"plain"),
        frame(BINARY, deflated(b"again"), rsv=RSV1),
    )
    assert found == [b"between", b"", "hello compressed world", b"plain", b"again"]


@pytest.mark.parametrize(
    "frames",
    [
        [frame(PING, b"", rsv=RSV1)],
        [frame(TEXT, b"", fin=False, rsv=RSV1), frame(CONTINUATION, b"\x00", rsv=RSV1)],
        [frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b", rsv=RSV1)],
    ],
)
def test_rsv1_on_a_continuation_or_control_frame_is_1002(frames: list[bytes]) -> None:
    found, inflation = events(*frames)
    assert found[-1:] == [1002]
    assert inflation.fault is not None and "RSV1" in inflation.fault.reason


@pytest.mark.parametrize("rsv", [1, 2, 5, 6])
def test_rsv2_and_rsv3_are_still_refused(rsv: int) -> None:
    assert events(frame(TEXT, deflated(b"x"), rsv=rsv))[0] == [1002]


def test_text_that_is_not_utf_8_is_found_when_it_is_inflated() -> None:
    assert events(frame(TEXT, deflated(b"\xff"), rsv=RSV1))[0] == [1007]


@pytest.mark.parametrize("last", [True, False])
def test_a_fault_ends_the_parser_with_its_close_code(last: bool) -> None:
    found, inflation = events(frame(TEXT, deflated(b"x" * 1001), fin=last, rsv=RSV1))
    assert found == [1009] and inflation.fault is not None
    assert inflation.fault.code == 1009


def test_a_fault_at_the_end_of_a_message_is_reported() -> None:
    found, inflation = events(frame(TEXT, b"\xf3\x48\xcd\xc9\xc9\x07\x00x", rsv=RSV1))
    assert found == [1007] and inflation.fault is not None


@given(st.data())
def test_fault_13_any_messages_in_any_pieces_with_any_pings_between_come_through(
    data: st.DataObject,
) -> None:
    messages = data.draw(st.lists(st.text(max_size=60), min_size=1, max_size=4))
    frames, expected = [], []
    for number, message in enumerate(messages):
        packed = data.draw(st.booleans())
        payload = deflated(message.encode()) if packed else message.encode()
        cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        bounds = [0, *cuts, len(payload)]
        for index in range(len(bounds) - 1):
            frames.append(
                frame(
                    TEXT if index == 0 else CONTINUATION,
                    payload[bounds[index] : bounds[index + 1]],
                    fin=index == len(bounds) - 2,
                    rsv=RSV1 if packed and index == 0 else 0,
                )
            )
            if index < len(bounds) - 2 and data.draw(st.booleans()):
                frames.append(frame(PING, b"%d" % number))
                expected.append(b"%d" % number)
        expected.append(message)  # type: ignore[arg-type]
    assert events(*frames)[0] == expected
