"""Messages as JSON, byte for byte as the Go original writes them, and what is refused."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ws_hub.errors import MessageDecodeError, MessageEncodeError
from ws_hub.protocol.message import (
    Encoder,
    Message,
    MessageType,
    decode,
    encode,
    microseconds,
    number,
    parse_timestamp,
    split_batch,
    timestamp,
    to_dict,
)

MOMENT = datetime.datetime(2026, 2, 20, 1, 17, 56, 123456, tzinfo=datetime.UTC)
MICROSECONDS = 1_771_550_276_123_456

# --- out -----------------------------------------------------------------------------------

WIRE = [
    (
        Message(
            type=MessageType.PROCESS_OUTPUT,
            channel="process:build-42",
            process_id="build-42",
            data="Compiling...",
            timestamp="2026-02-20T01:17:56.123456Z",
        ),
        b'{"type":"process_output","channel":"process:build-42","processId":"build-42",'
        b'"data":"Compiling...","timestamp":"2026-02-20T01:17:56.123456Z"}',
    ),
    (
        Message(type="process_status", data={"status": "exited", "exitCode": -9}),
        b'{"type":"process_status","data":{"status":"exited","exitCode":-9}}',
    ),
    (
        Message(type="event", data={"event": "deploy", "data": [1, 2.5, None, True]}),
        b'{"type":"event","data":{"event":"deploy","data":[1,2.5,null,true]}}',
    ),
    (Message(type="pong"), b'{"type":"pong"}'),
    (Message(type="x", data=""), b'{"type":"x","data":""}'),
    (Message(type="x", data=0), b'{"type":"x","data":0}'),
    (Message(type="x", data=False), b'{"type":"x","data":false}'),
    (Message(type="x", data=[]), b'{"type":"x","data":[]}'),
    (Message(type="x", data={}), b'{"type":"x","data":{}}'),
    (Message(type="x", data=None), b'{"type":"x"}'),
    (Message(type="x", data=(1, 2)), b'{"type":"x","data":[1,2]}'),
    (Message(type="x", data="<&>\u2028\n"), '{"type":"x","data":"<&>\u2028\\n"}'.encode()),
    (Message(type="x", data="\U0001f600"), '{"type":"x","data":"\U0001f600"}'.encode()),
    (
        Message(type="ack", channel="a", data={"seq": 3}, id=1),
        b'{"type":"ack","channel":"a","data":{"seq":3},"id":1}',
    ),
    (
        Message(
            type="error", data="no", timestamp="2026-02-20T01:17:56Z", id="q", code="bad_channel"
        ),
        b'{"type":"error","data":"no","timestamp":"2026-02-20T01:17:56Z",'
        b'"id":"q","code":"bad_channel"}',
    ),
    (Message(type="ping", id=0), b'{"type":"ping","id":0}'),
    (Message(type="ping", id=""), b'{"type":"ping","id":""}'),
    (
        Message(type="subscribe", channel="a", data="a", epoch="e", since=0),
        b'{"type":"subscribe","channel":"a","data":"a","epoch":"e","since":0}',
    ),
    (Message(type="subscribe", data="a", last=0), b'{"type":"subscribe","data":"a","last":0}'),
    (Message(type="lagged", channel="a", seq=0), b'{"type":"lagged","channel":"a","seq":0}'),
]


@pytest.mark.parametrize(("message", "wire"), WIRE, ids=lambda value: repr(value)[:40])
def test_a_message_is_written_as_the_go_hub_writes_it(message: Message, wire: bytes) -> None:
    assert encode(message) == wire


@pytest.mark.parametrize(("message", "wire"), WIRE, ids=lambda value: repr(value)[:40])
def test_an_encoded_message_decodes_to_itself(message: Message, wire: bytes) -> None:
    again = decode(wire.decode())

    assert encode(again) == wire


@pytest.mark.parametrize(
    "data",
    [
        math.nan,
        math.inf,
        -math.inf,
        {1, 2},
        b"bytes",
        ...,
        "\ud800",
        {"\udfff": 1},
        {(1, 2): 3},
        {math.nan: 1},
        [datetime.timedelta(1)],
    ],
    ids=repr,
)
def test_data_without_a_json_form_is_an_encode_error(data: Any) -> None:
    with pytest.raises(MessageEncodeError) as caught:
        encode(Message(type="event", data=data))

    assert "'event'" in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "field", ["type", "channel", "process_id", "timestamp", "id", "epoch", "code"]
)
def test_a_lone_surrogate_in_any_field_is_an_encode_error(field: str) -> None:
    with pytest.raises(MessageEncodeError):
        encode(Message(**{"type": "x", field: "\ud800"}))


def test_circular_data_is_an_encode_error() -> None:
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(MessageEncodeError):
        encode(Message(type="x", data=circle))


def test_fault_22_data_nested_too_deeply_is_an_encode_error() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(MessageEncodeError, match="without a repr"):
        encode(Message(type="x", data=deep))


def test_an_integer_beyond_the_digit_limit_is_an_encode_error() -> None:
    assert sys.get_int_max_str_digits() < 5000

    with pytest.raises(MessageEncodeError):
        encode(Message(type="x", data=10**5000))


def test_seq_is_added_to_an_encoded_message() -> None:
    text = encode(Message(type="x", channel="a", data="}"))

    assert number(text, 17) == b'{"type":"x","channel":"a","data":"}","seq":17}'
    assert decode(number(text, 1).decode()) == Message(type="x", channel="a", data="}", seq=1)


def test_a_message_type_is_its_string() -> None:
    assert str(MessageType.PROCESS_OUTPUT) == "process_output"
    assert f"{MessageType.ACK}" == "ack"
    assert Message(type=MessageType.PING) == Message(type="ping")


# --- in ------------------------------------------------------------------------------------


def test_every_field_is_decoded() -> None:
    text = json.dumps(
        {
            "type": "custom",
            "channel": "a",
            "processId": "p",
            "data": {"k": [1]},
            "timestamp": "2026-02-20T01:17:56Z",
            "id": "i",
            "code": "c",
            "seq": 4,
            "epoch": "e",
            "since": 2,
            "last": 3,
            "unknown": {"ignored": True},
        }
    )

    assert decode(text) == Message(
        type="custom",
        channel="a",
        process_id="p",
        data={"k": [1]},
        timestamp="2026-02-20T01:17:56Z",
        id="i",
        code="c",
        seq=4,
        epoch="e",
        since=2,
        last=3,
    )


def test_null_is_the_same_as_left_out() -> None:
    names = ("channel", "processId", "data", "timestamp", "id", "code", "seq", "epoch", "since")
    text = json.dumps({"type": "x", **dict.fromkeys(names)})

    assert decode(text) == Message(type="x")


def test_fault_25_of_duplicate_keys_the_last_wins() -> None:
    assert decode('{"type":"a","type":"b"}').type == "b"


BAD = [
    ("", "invalid JSON"),
    ("nonsense", "invalid JSON: Expecting value at character 0"),
    ('{"type":"x"', "invalid JSON"),
    ('{"type":"x"} {"type":"y"}', "invalid JSON: Extra data at character 13"),
    ('{"type":"x"}\n{"type":"y"}', "invalid JSON: Extra data"),
    ('\ufeff{"type":"x"}', "invalid JSON"),
    ("{'type':'x'}", "invalid JSON"),
    ('{"type":"x","data":NaN}', "invalid JSON: a number is out of range"),
    ('{"type":"x","data":Infinity}', "invalid JSON: a number is out of range"),
    ('{"type":"x","data":-Infinity}', "invalid JSON: a number is out of range"),
    ('{"type":"x","data":1e999}', "invalid JSON: a number is out of range"),
    ('{"type":"x","data":-1e999}', "invalid JSON: a number is out of range"),
    ('{"type":"x","data":' + "1" * 5000 + "}", "invalid JSON: a number is out of range"),
    ('{"type":"x","data":"\\ud800"}', "invalid JSON: a lone surrogate"),
    ('{"type":"x","data":"\\udc00\\ud800"}', "invalid JSON: a lone surrogate"),
    ('{"type":"x","\\uDFFF":1}', "invalid JSON: a lone surrogate"),
    ("[" * 100_000, "invalid JSON: nested too deeply"),
    ('{"a":' * 100_000, "invalid JSON: nested too deeply"),
    ("null", "a message must be a JSON object"),
    ("[]", "a message must be a JSON object"),
    ('"text"', "a message must be a JSON object"),
    ("1", "a message must be a JSON object"),
    ("true", "a message must be a JSON object"),
    ("{}", "type is required"),
    ('{"type":""}', "type is required"),
    ('{"type":null}', "type is required"),
    ('{"type":1}', "type must be a string"),
    ('{"type":true}', "type must be a string"),
    ('{"type":["x"]}', "type must be a string"),
    ('{"type":"x","channel":1}', "channel must be a string"),
    ('{"type":"x","processId":{}}', "processId must be a string"),
    ('{"type":"x","timestamp":1}', "timestamp must be a string"),
    ('{"type":"x","code":1}', "code must be a string"),
    ('{"type":"x","epoch":1}', "epoch must be a string"),
    ('{"type":"x","seq":"1"}', "seq must be a whole number"),
    ('{"type":"x","seq":1.0}', "seq must be a whole number"),
    ('{"type":"x","since":true}', "since must be a whole number"),
    ('{"type":"x","last":[]}', "last must be a whole number"),
    ('{"type":"x","id":1.5}', "id must be a string of at most 128 bytes or an integer"),
    ('{"type":"x","id":true}', "id must be a string of at most 128 bytes or an integer"),
    ('{"type":"x","id":[]}', "id must be a string of at most 128 bytes or an integer"),
    ('{"type":"x","id":{}}', "id must be a string of at most 128 bytes or an integer"),
]


@pytest.mark.parametrize(("text", "why"), BAD, ids=[text[:30] for text, _ in BAD])
def test_an_invalid_message_is_a_decode_error(text: str, why: str) -> None:
    with pytest.raises(MessageDecodeError) as caught:
        decode(text)

    assert str(caught.value).startswith(why)
    assert caught.value.code == "bad_message"


@pytest.mark.parametrize("id", [7, "seven"])
def test_a_decode_error_has_the_id_that_could_be_read(id: str | int) -> None:
    with pytest.raises(MessageDecodeError) as caught:
        decode(json.dumps({"id": id, "type": 5}))

    assert caught.value.id == id


def test_a_decode_error_without_a_readable_id_has_none() -> None:
    with pytest.raises(MessageDecodeError) as caught:
        decode('{"id":[1],"type":5}')

    assert caught.value.id is None


def test_a_decode_error_repeats_nothing_that_was_sent() -> None:
    with pytest.raises(MessageDecodeError) as caught:
        decode('{"<script>": secret}')

    assert "secret" not in str(caught.value)
    assert "script" not in str(caught.value)


def test_fault_26_a_proper_pair_of_surrogates_is_one_character() -> None:
    assert decode('{"type":"x","data":"\\ud83d\\ude00"}').data == "\U0001f600"


def test_an_escaped_backslash_before_u_is_no_surrogate() -> None:
    assert decode('{"type":"x","data":"\\\\ud800"}').data == "\\ud800"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ('{"type":"subscribe","channel":"a"}', "a"),
        ('{"type":"subscribe","data":"b"}', "b"),
        ('{"type":"subscribe","channel":"a","data":"b"}', "a"),
        ('{"type":"subscribe","channel":"","data":"b"}', "b"),
        ('{"type":"subscribe","data":""}', ""),
        ('{"type":"subscribe","data":5}', None),
        ('{"type":"subscribe"}', None),
    ],
)
def test_the_target_is_the_channel_or_else_the_data(text: str, target: str | None) -> None:
    assert decode(text).target == target


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\nb\nc", ["a", "b", "c"]),
        ("a\n", ["a"]),
        ("\n\na\n \r\nb\n", ["a", "b"]),
        ("a\u2028b", ["a\u2028b"]),
        ("a\r\vb", ["a\r\vb"]),
    ],
)
def test_a_batch_is_split_at_newlines_only(text: str, pieces: list[str]) -> None:
    assert list(split_batch(text)) == pieces


# --- properties ----------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NONEMPTY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)
IDS = TEXT.filter(lambda text: len(text.encode()) <= 128)
COUNT = st.none() | st.integers(min_value=-1)
MESSAGES = st.builds(
    Message,
    type=NONEMPTY,
    channel=TEXT,
    process_id=TEXT,
    data=JSON,
    timestamp=st.sampled_from(["", "2026-02-20T01:17:56Z", "2026-02-20T01:17:56.5+05:45"]),
    id=st.none() | st.integers(-(2**53), 2**53) | IDS,
    code=TEXT,
    seq=COUNT,
    epoch=TEXT,
    since=COUNT,
    last=COUNT,
)
OUTPUT = st.builds(
    Message,
    type=st.just("process_output"),
    data=JSON,
    line=COUNT,
    stream=st.sampled_from(["", "stderr"]),
    time=st.none() | st.integers(),
    seq=COUNT,
)


@pytest.mark.slow
@given(MESSAGES | OUTPUT)
def test_every_message_survives_encoding_and_decoding(message: Message) -> None:
    assert decode(encode(message).decode()) == message


@pytest.mark.slow
@given(MESSAGES | OUTPUT)
def test_an_encoded_message_has_no_newline_and_the_fields_of_go_first(message: Message) -> None:
    text = encode(message)

    assert b"\n" not in text
    order = ["type", "channel", "processId", "data", "timestamp"]
    keys = list(json.loads(text))
    assert [key for key in keys if key in order] == [key for key in order if key in keys]
    assert keys[: len(set(keys) & set(order))] == [key for key in order if key in keys]


@pytest.mark.slow
@given(st.lists(MESSAGES))
def test_a_joined_frame_of_a_go_hub_is_split_exactly(messages: list[Message]) -> None:
    joined = b"\n".join(encode(message) for message in messages).decode()

    assert [decode(piece) for piece in split_batch(joined)] == messages


def decodes_or_refuses(text: str) -> None:
    try:
        message = decode(text)
    except MessageDecodeError:
        return
    # Not `encode`, which refuses what we would not send: a time that is none.
    assert decode(json.dumps(to_dict(message))) == message


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\x00")
@example("-" * 1000)
@example("1" * 100_000)
def test_any_text_is_a_message_or_a_decode_error(text: str) -> None:
    decodes_or_refuses(text)


@pytest.mark.slow
@given(JSON)
def test_any_json_is_a_message_or_a_decode_error(value: Any) -> None:
    decodes_or_refuses(json.dumps(value))


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from(
            ["type", "channel", "processId", "data", "timestamp", "id", "code", "seq", "epoch"]
        ),
        JSON,
    )
)
def test_any_value_in_a_known_field_is_a_message_or_a_decode_error(value: Any) -> None:
    decodes_or_refuses(json.dumps(value))


@given(st.text(alphabet='{}[]":,\\u d8c0123456789aefnrtlsypENI.-+', max_size=200))
def test_almost_json_is_a_message_or_a_decode_error(text: str) -> None:
    decodes_or_refuses(text)


# --- time ----------------------------------------------------------------------------------

UTC = datetime.UTC


def test_a_timestamp_is_utc_with_microseconds() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000000Z"
    assert timestamp(1771550276.123456) == "2026-02-20T01:17:56.123456Z"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-02-20T01:17:56Z", datetime.datetime(2026, 2, 20, 1, 17, 56, tzinfo=UTC)),
        ("2026-02-20t01:17:56z", datetime.datetime(2026, 2, 20, 1, 17, 56, tzinfo=UTC)),
        ("2026-02-20T01:17:56.1Z", datetime.datetime(2026, 2, 20, 1, 17, 56, 100000, tzinfo=UTC)),
        (
            "2026-02-20T01:17:56.123456789Z",
            datetime.datetime(2026, 2, 20, 1, 17, 56, 123456, tzinfo=UTC),
        ),
        (
            "2026-02-20T02:17:56.000000001+01:00",
            datetime.datetime(2026, 2, 20, 1, 17, 56, tzinfo=UTC),
        ),
        (
            "2026-02-19T19:47:56.5-05:30",
            datetime.datetime(2026, 2, 20, 1, 17, 56, 500000, tzinfo=UTC),
        ),
        ("0001-01-01T00:00:00Z", datetime.datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_timestamps_of_go_are_parsed(text: str, moment: datetime.datetime) -> None:
    assert parse_timestamp(text) == moment


def test_the_offset_of_a_go_host_is_kept() -> None:
    offset = parse_timestamp("2026-02-20T02:17:56+05:45").utcoffset()

    assert offset == datetime.timedelta(hours=5, minutes=45)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-02-20",
        "2026-02-20T01:17:56",
        "2026-02-20 01:17:56Z",
        "2026-02-20T01:17:56.Z",
        "2026-02-20T01:17:56.1234567890Z",
        "2026-02-20T01:17:56+0100",
        "2026-02-20T01:17:56Z\n",
        "2026-02-30T01:17:56Z",
        "2026-02-20T25:17:56Z",
        "2026-02-20T01:17:56+99:00",
        "2026-02-20T01:17:56+01:60",
        "٢٠٢٦-02-20T01:17:56Z",
        "2026-02-20T01:17:56.١Z",
    ],
)
def test_an_invalid_timestamp_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_timestamp(text)


@given(
    st.datetimes(min_value=datetime.datetime(1970, 1, 1), max_value=datetime.datetime(2200, 1, 1))
)
def test_a_timestamp_is_read_back_to_the_microsecond(moment: datetime.datetime) -> None:
    seconds = moment.replace(tzinfo=UTC).timestamp()

    assert parse_timestamp(timestamp(seconds)) == datetime.datetime.fromtimestamp(seconds, UTC)


@given(st.text())
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        parse_timestamp(text)
    except ValueError:
        pass


def test_a_message_keeps_the_timestamp_that_it_has() -> None:
    message = Message(type="x", timestamp="2026-02-20T01:17:56Z")

    assert encode(message, 0) == encode(message)


def test_a_message_without_a_timestamp_gets_one() -> None:
    message = Message(type="x", data=1)

    stamped = Message(type="x", data=1, timestamp="1970-01-01T00:00:00.000000Z")
    assert encode(message, 0) == encode(stamped)
    assert message.timestamp == ""


def test_a_message_as_a_dict_has_the_names_of_the_wire() -> None:
    message = Message(type="process_status", process_id="p", data={"exitCode": 0}, seq=3)

    assert to_dict(message) == {
        "type": "process_status",
        "processId": "p",
        "data": {"exitCode": 0},
        "seq": 3,
    }


@given(st.floats(min_value=0, max_value=4e9))
def test_a_timestamp_agrees_with_datetime(seconds: float) -> None:
    moment = datetime.datetime.fromtimestamp(seconds, UTC)

    assert parse_timestamp(timestamp(seconds)) == moment


# --- output of programs ----------------------------------------------------------------------


def test_the_standard_output_has_no_field_of_its_own() -> None:
    plain = Message("process_output", data="x")
    assert encode(plain) == b'{"type":"process_output","data":"x"}'
    assert encode(dataclasses.replace(plain, stream="stdout")) == encode(plain)


def test_stream_and_time_stand_behind_the_fields_of_go_and_before_the_line() -> None:
    message = Message("process_output", data="x", stream="stderr", time=5, line=7, seq=9)
    text = (
        b'{"type":"process_output","data":"x",'
        b'"stream":"stderr","time":5,"line":7,"seq":9}'
    )  # fmt: skip
    assert encode(message) == text
    assert decode(text.decode()) == message


@pytest.mark.parametrize("value", ["stdin", "STDERR", 2, b"stderr"])
def test_another_stream_is_an_encode_error(value: Any) -> None:
    with pytest.raises(MessageEncodeError, match="stream must be"):
        encode(Message("process_output", data="x", stream=value))


@pytest.mark.parametrize("value", [1.5, "1", True])
def test_a_time_that_is_no_whole_number_is_an_encode_error(value: Any) -> None:
    with pytest.raises(MessageEncodeError, match="time must be a whole number"):
        encode(Message("process_output", data="x", time=value))


def test_stream_and_time_of_an_applications_own_message_are_ignored() -> None:
    assert decode('{"type":"chat","time":"12:00","stream":7}') == Message("chat")
    # A hub of another kind may have fields of these names too.
    assert decode('{"type":"process_output","time":1.5,"stream":7}') == Message("process_output")


@pytest.mark.parametrize(
    ("message", "moment"),
    [
        (Message("a", timestamp="2026-02-20T02:17:56.123456+01:00"), MOMENT),
        (Message("process_output", timestamp="2026-02-20T05:00:00Z", time=MICROSECONDS), MOMENT),
        (Message("process_output", time=MICROSECONDS), MOMENT),
        (Message("a"), None),
        (Message("a", timestamp="today"), None),
        (Message("a", time=2**62), None),
    ],
)
def test_read_at_is_the_time_or_else_the_timestamp(
    message: Message, moment: datetime.datetime | None
) -> None:
    assert message.read_at == moment


@given(st.floats(-1e9, 4e9))
def test_a_time_in_microseconds_agrees_with_the_timestamp(seconds: float) -> None:
    moment = Message("a", timestamp=timestamp(seconds)).read_at
    assert moment == Message("a", time=microseconds(seconds)).read_at


def test_a_listing_holds_encoded_messages_as_they_are() -> None:
    texts = [encode(Message("event", data={"a": [1, "é", None]})), b'{"type":"x","n":1.50e3}']
    message = Message("ack", data={"channel": 'a "messages":[]', "seq": 2}, id="7")
    found = Encoder().encode_listing(message, "messages", texts, 0.0)
    plain = json.loads(Encoder().encode(message, 0.0))
    plain["data"]["messages"] = [json.loads(text) for text in texts]
    assert json.loads(found) == plain
    assert list(json.loads(found)) == list(plain)
    assert b"1.50e3" in found
    assert (
        json.loads(Encoder().encode_listing(message, "messages", [], 0.0))["data"]["messages"] == []
    )


def test_a_listing_refuses_what_is_nested_too_deeply_to_be_read() -> None:
    deep = b'{"type":"x","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    wide = b'{"type":"x","data":[' + b"[]," * 5000 + b"[]]}"
    message = Message("ack", data={"seq": 1}, id="7")
    Encoder().encode_listing(message, "messages", [wide], 0.0)
    with pytest.raises(MessageEncodeError, match="cannot encode 'ack' message"):
        Encoder().encode_listing(message, "messages", [wide, deep], 0.0)
