"""A message encoded once, numbered later, and joined with others."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from tests.support import inflated
from ws_hub.protocol.message import Message, encode
from ws_hub.protocol.publication import Batch, publish


def texts(frames: bytes) -> list[str]:
    """The messages that a peer reads out of some frames."""
    parser = Connection(ConnectionType.CLIENT)
    parser.receive_data(frames)
    found = []
    for event in parser.events():
        assert isinstance(event, TextMessage) and event.message_finished
        found.append(event.data)
    return found


def unpacked(frame: bytes) -> str:
    """The message in one frame, compressed or not, as RFC 7692 says."""
    plain = bytes([frame[0] & ~0x40]) + frame[1:]
    if plain == frame:
        return texts(frame)[0]
    head = 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10
    return inflated(frame[head:]).decode()


def test_a_message_is_encoded_and_framed_at_once() -> None:
    publication = publish(encode(Message("event", data="é")), "news", "drop")
    assert publication.text == '{"type":"event","data":"é"}'.encode()
    assert texts(publication.frame) == ['{"type":"event","data":"é"}']
    assert (publication.channel, publication.overflow, publication.seq) == ("news", "drop", 0)


def test_a_publication_has_no_frame_until_it_is_numbered() -> None:
    publication = publish(encode(Message("event", data=1)), "kept", "drop", to_be_numbered=True)
    assert publication.frame == b""
    publication.number(7)
    assert [json.loads(text) for text in texts(publication.frame)] == [
        {"type": "event", "data": 1, "seq": 7}
    ]
    assert (publication.channel, publication.overflow, publication.seq) == ("kept", "drop", 7)


def test_a_receiver_sees_the_number_only_where_there_is_one() -> None:
    publication = publish(encode(Message("event", data=1)), "kept", "drop", to_be_numbered=True)
    assert publication.message == Message("event", data=1)
    publication.number(3)
    assert publication.message == Message("event", data=1, seq=3)


def test_receivers_share_no_data() -> None:
    publication = publish(encode(Message("event", data=[1])), "", "drop")
    publication.message.data.append(2)
    assert publication.message.data == [1]


@given(st.lists(st.text(max_size=300), min_size=1, max_size=20))
def test_a_batch_is_its_messages_in_order_one_frame_each(data: list[str]) -> None:
    batch = Batch([publish(encode(Message("event", data=each)), "", "drop") for each in data])
    assert batch.messages == len(data)
    assert [json.loads(text)["data"] for text in texts(batch.frames)] == data


# --- compressed ----------------------------------------------------------------------------

LONG = Message("event", data="all work and no play " * 50)


@pytest.mark.parametrize("numbered", [False, True])
def test_a_compressed_message_is_the_same_message_in_fewer_bytes(numbered: bool) -> None:
    publication = publish(encode(LONG), "kept", "drop", to_be_numbered=numbered, compressed=True)
    if numbered:
        assert (publication.frame, publication.compressed) == (b"", b"")
        publication.number(12_345)
    assert (
        unpacked(publication.compressed) == texts(publication.frame)[0] == publication.text.decode()
    )
    assert len(publication.compressed) < len(publication.frame) / 5
    assert not publication.unfinished


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_message_that_would_not_be_smaller_stays_as_it_is(
    numbered: bool, compressed: bool
) -> None:
    text = encode(Message("x", data=1) if compressed else LONG)
    publication = publish(text, "kept", "drop", to_be_numbered=numbered, compressed=compressed)
    if numbered:
        publication.number(1)
    assert publication.compressed is publication.frame


def test_a_batch_takes_plain_frames_where_none_is_compressed() -> None:
    publications = [
        publish(encode(message), "", "drop", compressed=True)
        for message in (LONG, Message("x"), LONG)
    ]
    plain, packed = Batch(publications), Batch(publications, compressed=True)
    assert b"".join(plain.each) == plain.frames and b"".join(packed.each) == packed.frames
    assert [unpacked(each) for each in packed.each] == [unpacked(each) for each in plain.each]
    assert packed.each[1] is plain.each[1] and packed.each[0] != plain.each[0]
