"""What a client's text asks for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.protocol.message import Message
from ws_hub.protocol.names import is_channel_name
from ws_hub.protocol.requests import (
    Other,
    Publish,
    Reply,
    Subscribe,
    Unsubscribe,
    ack,
    error,
    interpret,
    unknown_type,
)


def read(**fields: object) -> object:
    return interpret(json.dumps(fields), is_channel_name)


def reply_to(text: str) -> Message:
    effect = interpret(text, is_channel_name)
    assert isinstance(effect, Reply)
    return effect.message


def test_a_ping_is_answered_with_its_id() -> None:
    assert read(type="ping", id=7) == Reply(Message("pong", id=7))
    assert read(type="ping") == Reply(Message("pong"))


def test_a_channel_is_named_in_channel_or_in_data() -> None:
    assert read(type="subscribe", data="news") == Subscribe("news")
    assert read(type="subscribe", channel="news") == Subscribe("news")
    assert read(type="subscribe", channel="news", data="other") == Subscribe("news")
    assert read(type="unsubscribe", data="news", id="x") == Unsubscribe("news", "x")


def test_a_subscription_may_carry_a_position() -> None:
    assert read(type="subscribe", channel="a", since=3, epoch="e", id=1) == Subscribe(
        "a", 1, 3, "e", None
    )
    assert read(type="subscribe", channel="a", last=3) == Subscribe("a", None, None, "", 3)


def test_any_data_can_be_published_to_a_channel() -> None:
    assert read(type="publish", channel="a", data={"x": 1}, id=1) == Publish("a", {"x": 1}, 1)
    assert read(type="publish", channel="a") == Publish("a")


@pytest.mark.parametrize("channel", ["", "a b", "process:a b", "a" * 300])
def test_nothing_is_published_to_a_bad_channel(channel: str) -> None:
    message = reply_to(json.dumps({"type": "publish", "channel": channel, "data": "a", "id": 1}))
    assert (message.type, message.code, message.id) == ("error", "bad_channel", 1)
    assert message.data.startswith("Publish: invalid ")
    assert message.channel == (channel if len(channel) < 257 else "")


@pytest.mark.parametrize("data", [None, 5, True, ["a"], {"a": 1}])
@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_a_channel_that_is_no_string_is_an_error(kind: str, data: object) -> None:
    message = reply_to(json.dumps({"type": kind, "data": data, "id": 1}))
    assert (message.type, message.code, message.id) == ("error", "bad_channel", 1)


@pytest.mark.parametrize("name", ["a b", "a/b", "a\x00", "a\r\nb", "ä", "a" * 257])
def test_fault_21_a_bad_channel_name_is_one_error_with_the_texts_of_go(name: str) -> None:
    message = reply_to(json.dumps({"type": "subscribe", "channel": name}))
    assert message.data == "Subscribe: invalid channel name"
    assert message.code == "bad_channel"
    assert len(message.channel) <= 256


@pytest.mark.parametrize("name", ["process:", "process:a:b", "process:" + "x" * 129])
def test_a_bad_process_id_is_an_error_with_the_text_of_go(name: str) -> None:
    message = reply_to(json.dumps({"type": "subscribe", "channel": name}))
    assert message.data == "Subscribe: invalid process ID"


@pytest.mark.parametrize("name", ["*", "chat:*", "process:*"])
@pytest.mark.parametrize("kind", ["subscribe", "publish", "history", "presence"])
def test_a_pattern_for_a_channel_is_told_that_it_is_one(kind: str, name: str) -> None:
    message = reply_to(json.dumps({"type": kind, "channel": name, "id": 1}))
    begin = "process ID" if name == "process:*" else "channel name"
    assert message.data.startswith(f"{kind.capitalize()}: invalid {begin}. A * makes it a pattern")
    assert message.data.endswith("give each channel's whole name")
    assert (message.code, message.channel) == ("bad_channel", name)


@pytest.mark.parametrize("field", ["since", "last"])
def test_a_negative_position_is_an_error(field: str) -> None:
    message = reply_to(json.dumps({"type": "subscribe", "channel": "a", field: -1}))
    assert message.code == "bad_message"
    assert field in message.data


def test_any_other_type_is_the_applications() -> None:
    assert read(type="chat", data={"a": 1}, id=2) == Other(Message("chat", data={"a": 1}, id=2))


@pytest.mark.parametrize("text", ["", "x", "[]", "1", '"a"', "{", '{"type":1}', "\ufeff{}"])
def test_fault_27_invalid_messages_are_answered_with_an_error(text: str) -> None:
    assert reply_to(text).code == "bad_message"


def test_fault_22_nesting_without_end_is_answered() -> None:
    assert reply_to('{"type":"x","data":' + "[" * 100_000).code == "bad_message"


@given(st.text())
def test_no_text_raises(text: str) -> None:
    interpret(text, is_channel_name)


def test_replies_carry_what_the_request_needs() -> None:
    assert error("no", "limit", id=1, channel="a") == Message(
        "error", channel="a", data="no", id=1, code="limit"
    )
    assert ack("x", {"a": 1}) == Message("ack", data={"a": 1}, id="x")
    assert "'chat'" in unknown_type(Message("chat", id=3)).data
