"""A message encoded once, numbered later, and joined with others."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from ws_hub.message import Message, encode
from ws_hub.publication import Batch, publish


def texts(frames: bytes) -> list[str]:
    """The messages that a peer reads out of some frames."""
    parser = Connection(ConnectionType.CLIENT)
    parser.receive_data(frames)
    found = []
    for event in parser.events():
        assert isinstance(event, TextMessage) and event.message_finished
        found.append(event.data)
    return found


def test_a_message_is_encoded_and_framed_at_once() -> None:
    publication = publish(encode(Message("event", data="é")), "news", "drop")
    assert publication.text == '{"type":"event","data":"é"}'.encode()
    assert texts(publication.frame) == ['{"type":"event","data":"é"}']
    assert (publication.channel, publication.overflow, publication.seq) == ("news", "drop", 0)


def test_what_is_to_be_numbered_has_no_frame_until_it_is() -> None:
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
