"""A message encoded once, numbered later, and joined with others."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from ws_hub.errors import MessageEncodeError
from ws_hub.message import Message
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
    publication = publish(Message("event", data="é"), "news", "drop")
    assert publication.text == '{"type":"event","data":"é"}'.encode()
    assert texts(publication.frame) == ['{"type":"event","data":"é"}']
    assert (publication.channel, publication.overflow, publication.seq) == ("news", "drop", 0)


def test_what_has_no_json_form_is_no_publication() -> None:
    with pytest.raises(MessageEncodeError):
        publish(Message("event", data={1}), "news", "drop")


def test_what_is_to_be_numbered_has_no_frame_until_it_is() -> None:
    publication = publish(Message("event", data=1), "kept", "drop", to_be_numbered=True)
    assert publication.frame == b""
    numbered = publication.numbered(7)
    assert [json.loads(text) for text in texts(numbered.frame)] == [
        {"type": "event", "data": 1, "seq": 7}
    ]
    assert (numbered.channel, numbered.overflow, numbered.seq) == ("kept", "drop", 7)


def test_a_receiver_sees_the_number_only_where_there_is_one() -> None:
    message = Message("event", data=1)
    publication = publish(message, "kept", "drop", to_be_numbered=True)
    assert publication.delivered is message
    assert publication.numbered(3).delivered == Message("event", data=1, seq=3)
    assert message.seq is None


@given(st.lists(st.text(max_size=300), min_size=1, max_size=20))
def test_a_batch_is_its_messages_in_order_one_frame_each(data: list[str]) -> None:
    batch = Batch([publish(Message("event", data=each), "", "drop") for each in data])
    assert batch.messages == len(data)
    assert [json.loads(text)["data"] for text in texts(batch.frames)] == data
