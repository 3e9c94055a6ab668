"""What Go hubs send and take on a server, in bytes."""

from __future__ import annotations

import json
import pickle

import pytest

from tests.go_captures import CAPTURES, GO_SOURCE, Capture
from ws_hub import Message
from ws_hub.backplane.bus import Notice, NoticeKind
from ws_hub.backplane.go_bridge import MAX_GO_BYTES, GoBridge
from ws_hub.backplane.notices import encode as tail_of
from ws_hub.backplane.peers import Counts
from ws_hub.protocol.message import encode, timestamp

OWN = "0123456789abcdef0123456789abcdef"
NOW = 1_771_550_276.5
TIME = "2026-02-20T01:17:56.500000Z"
MESSAGE = b'{"type":"event","data":1,"timestamp":"2026-02-20T01:17:56Z"}'


def bridge(prefix: str = "ws", counts: Counts | None = None) -> GoBridge:
    return GoBridge(prefix, OWN, counts or Counts(), clock=lambda: NOW)


def heard(body: bytes, channel: bytes = b"ws:channel:news") -> Notice | None:
    return bridge().heard(channel, body)


def from_go(message: bytes, *, source: bytes = GO_SOURCE.encode()) -> bytes:
    return b'{"sourceId":"%b","message":%b}' % (source, message)


def bodies(name: str, *texts: bytes, number: int = 8) -> list[tuple[str, bytes]]:
    return [*bridge().bodies(tail_of(Notice(NoticeKind.PUBLISH, name, texts)), number)]


# --- what is heard -------------------------------------------------------------------------


def test_the_patterns_are_those_of_a_go_bridge() -> None:
    assert bridge("app:1").patterns == ("app:1:broadcast", "app:1:channel:*")


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda each: f"{each.name} {each.given['type']}")
def test_what_go_has_published_is_delivered_as_it_says(capture: Capture) -> None:
    text = capture.text.replace("{now}", timestamp(NOW)).encode()
    assert heard(capture.body, capture.channel) == Notice(NoticeKind.PUBLISH, capture.name, (text,))


@pytest.mark.parametrize("source", [b"id-1-000000", b"", "Zoë".encode(), b'\\"'])
def test_a_source_has_any_name(source: bytes) -> None:
    assert heard(from_go(MESSAGE, source=source)) is not None


def test_a_source_may_be_missing_as_in_go() -> None:
    assert heard(b'{"message":%b}' % MESSAGE) is not None
    assert heard(b'{"sourceId":null,"message":%b}' % MESSAGE) is not None


def test_what_this_process_has_sent_is_left_out_however_it_is_written() -> None:
    assert heard(from_go(MESSAGE, source=OWN.encode())) is None
    reordered = b'{ "message": %b, "sourceId": "%b" }' % (MESSAGE, OWN.encode())
    assert heard(reordered) is None


def test_what_another_hub_of_this_library_has_sent_is_left_out() -> None:
    other = GoBridge("ws", "f" * 32, Counts())
    notice = Notice(NoticeKind.PUBLISH, "news", (MESSAGE,))
    ((channel, body),) = other.bodies(tail_of(notice), 7)
    assert heard(body, channel.encode()) is None
    assert heard(from_go(MESSAGE)[:-1] + b',"n":0}') is None


def test_fields_that_go_has_not_are_not_taken() -> None:
    found = heard(from_go(MESSAGE[:-1] + b',"seq":9,"id":1,"epoch":"e","key":"k","x":{}}'))
    assert found is not None
    (text,) = found.texts
    assert sorted(json.loads(text)) == ["channel", "data", "timestamp", "type"]


def test_the_channel_of_the_server_counts_and_not_that_of_the_message() -> None:
    found = heard(from_go(b'{"type":"event","channel":"another","data":1}'))
    text = b'{"type":"event","channel":"news","data":1,"timestamp":"%b"}' % TIME.encode()
    assert found == Notice(NoticeKind.PUBLISH, "news", (text,))


@pytest.mark.parametrize("null", ["channel", "processId", "data", "timestamp"])
def test_null_is_what_is_missing(null: str) -> None:
    found = heard(from_go(b'{"type":"event","%b":null}' % null.encode()))
    assert found is not None
    (text,) = found.texts
    assert text == b'{"type":"event","channel":"news","timestamp":"%b"}' % TIME.encode()


HOSTILE = {
    "empty": b"",
    "no JSON": b"not-json",
    "pickle": pickle.dumps({"sourceId": "a", "message": {"type": "event"}}),
    "pickle of text": pickle.dumps(from_go(MESSAGE).decode(), protocol=0),
    "not UTF-8": from_go(b'{"type":"event","data":"\xff\xfe"}'),
    "a surrogate": from_go(b'{"type":"event","data":"\\ud800"}'),
    "a surrogate type": from_go(b'{"type":"\\ud800"}'),
    "another text behind": from_go(MESSAGE) + b"{}",
    "a list": b"[" + from_go(MESSAGE) + b"]",
    "a number": b"7",
    "null": b"null",
    "NaN": from_go(b'{"type":"event","data":NaN}'),
    "infinity": from_go(b'{"type":"event","data":[-Infinity]}'),
    "a huge number": from_go(b'{"type":"event","data":1e999}'),
    "digits": from_go(b'{"type":"event","data":%b}' % (b"9" * 5000)),
    "nested": from_go(b'{"type":"event","data":%b%b}' % (b"[" * 30_000, b"]" * 30_000)),
    "nested as can just be read": from_go(
        b'{"type":"event","data":%b%b}' % (b"[" * 990, b"]" * 990)
    ),
    "unclosed": b'{"sourceId":' * 5000,
    "too large": from_go(b'{"type":"event","data":"%b"}' % (b"x" * MAX_GO_BYTES)),
    "no message": b'{"sourceId":"a"}',
    "a null message": from_go(b"null"),
    "a text for a message": from_go(b'"event"'),
    "a list for a message": from_go(b"[]"),
    "an empty message": from_go(b"{}"),
    "a number for a source": b'{"sourceId":7,"message":%b}' % MESSAGE,
    "a truth for a number": from_go(MESSAGE)[:-1] + b',"n":true}',
    "a text for a number": from_go(MESSAGE)[:-1] + b',"n":"8"}',
    "no type": from_go(b'{"data":1}'),
    "an empty type": from_go(b'{"type":"","data":1}'),
    "a number for a type": from_go(b'{"type":7}'),
    "a long type": from_go(b'{"type":"%b"}' % (b"x" * 257)),
    "a list for a channel": from_go(b'{"type":"event","channel":["news"]}'),
    "a number for a process": from_go(b'{"type":"event","processId":42}'),
    "a process with a colon": from_go(b'{"type":"event","processId":"a:b"}'),
    "a process with a space": from_go(b'{"type":"event","processId":"a b"}'),
    "a long process": from_go(b'{"type":"event","processId":"%b"}' % (b"x" * 129)),
    "a number for a time": from_go(b'{"type":"event","timestamp":1771550276}'),
    "no time": from_go(b'{"type":"event","timestamp":"yesterday"}'),
    "a time without an offset": from_go(b'{"type":"event","timestamp":"2026-02-20T01:17:56"}'),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_what_no_go_hub_sends_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        heard(body)
    with pytest.raises(ValueError):
        heard(body, b"ws:broadcast")


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b" ",
        b"a b",
        b"a/b",
        b"*",
        b"a\n",
        b"process:",
        b"process:a:b",
        b"x" * 257,
        b"\xff",
        b"\0",
    ],
)
def test_a_name_that_is_none_reaches_nobody_above_all_not_everybody(name: bytes) -> None:
    with pytest.raises(ValueError):
        heard(from_go(MESSAGE), b"ws:channel:" + name)
    with pytest.raises(ValueError):
        heard(from_go(MESSAGE), b"ws:other:" + name)


def test_a_broadcast_does_not_name_what_is_no_channel() -> None:
    with pytest.raises(ValueError, match="not the name of a channel"):
        heard(from_go(b'{"type":"event","channel":"a b"}'), b"ws:broadcast")


def test_a_body_of_the_most_bytes_is_taken() -> None:
    spare = MAX_GO_BYTES - len(from_go(b'{"type":"event","data":""}'))
    body = from_go(b'{"type":"event","data":"%b"}' % (b"x" * spare))
    assert len(body) == MAX_GO_BYTES
    assert heard(body) is not None
    with pytest.raises(ValueError, match="at most 65536"):
        heard(body + b" ")


# --- what is sent --------------------------------------------------------------------------


def test_a_message_of_a_channel_names_it_in_the_servers_channel_alone() -> None:
    text = encode(Message("event", data="<&>", timestamp=TIME), channel="news")
    assert b'"channel":"news"' in text
    assert bodies("news", text) == [
        (
            "ws:channel:news",
            b'{"sourceId":"0123456789abcdef0123456789abcdef","message":{"type":"event",'
            b'"data":"<&>","timestamp":"2026-02-20T01:17:56.500000Z"},"n":8}',
        )
    ]


def test_a_message_of_a_process_keeps_its_id() -> None:
    text = encode(
        Message("process_output", process_id="b", data="x", timestamp=TIME), channel="process:b"
    )
    assert bodies("process:b", text)[0][1].startswith(
        b'{"sourceId":"0123456789abcdef0123456789abcdef","message":{"type":"process_output",'
        b'"processId":"b","data":"x",'
    )


def test_a_broadcast_and_several_messages_come_in_their_order() -> None:
    texts = [encode(Message("event", data=number, timestamp=TIME)) for number in range(3)]
    found = bodies("", *texts)
    assert [channel for channel, _ in found] == ["ws:broadcast"] * 3
    assert [json.loads(body)["message"]["data"] for _, body in found] == [0, 1, 2]
    assert [json.loads(body)["n"] for _, body in found] == [8, 8, 8]


def test_a_type_and_data_that_look_like_a_channel_are_left_as_they_are() -> None:
    odd = '","channel":"news","x":"'
    text = encode(Message(odd, data={"channel": "news"}, timestamp=TIME), channel="news")
    ((_, body),) = bodies("news", text)
    message = json.loads(body)["message"]
    assert (message["type"], message["data"]) == (odd, {"channel": "news"})
    assert "channel" not in message


@pytest.mark.parametrize(
    "notice",
    [
        Notice(NoticeKind.PUBLISH, "state", (MESSAGE,), key="cpu", time=1, origin="a"),
        Notice(NoticeKind.USER, "ann", (MESSAGE,)),
        Notice(NoticeKind.DISCONNECT, "ann", code=4000, reason="bye"),
        Notice(NoticeKind.PRESENCE, "", (MESSAGE,)),
        Notice(NoticeKind.KEYS),
        Notice(NoticeKind.KEPT),
    ],
    ids=lambda each: each.kind,
)
def test_only_what_is_for_all_or_for_a_channel_without_history_is_sent(notice: Notice) -> None:
    counts = Counts()
    assert [*bridge(counts=counts).bodies(tail_of(notice), 1)] == []
    assert counts.go_refused == 0


def test_what_go_would_drop_is_counted_and_warned_of_once_for_each_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = Counts()
    go = bridge(counts=counts)

    def sent(name: str, message: Message) -> int:
        tail = tail_of(Notice(NoticeKind.PUBLISH, name, (encode(message, NOW, channel=name),)))
        return len([*go.bodies(tail, 1)])

    for _ in range(3):
        assert sent("", Message("event", data="x" * MAX_GO_BYTES)) == 0
        assert sent("a b", Message("event", data=1)) == 0
        assert sent("a", Message("event", process_id="a b", data=1)) == 0
        assert sent("a", Message("event", data=1)) == 1
    assert counts.go_refused == 9
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    for text, reason in zip(texts, ["at most 65536", "channel 'a b'", "process id"], strict=True):
        assert reason in text


def test_the_largest_body_that_is_sent_is_one_that_go_takes() -> None:
    def message(size: int) -> bytes:
        return encode(Message("event", data="x" * size, timestamp=TIME), channel="news")

    ((_, small),) = bodies("news", message(0))
    spare = MAX_GO_BYTES - len(small)
    ((_, largest),) = bodies("news", message(spare))
    assert len(largest) == MAX_GO_BYTES
    assert bodies("news", message(spare + 1)) == []


@pytest.mark.parametrize(("character", "size"), [("<", 6), (">", 6), ("&", 6), ("\u2028", 6)])
def test_what_go_would_send_its_clients_has_to_fit_as_well(character: str, size: int) -> None:
    def message(count: int) -> bytes:
        return encode(Message("event", data=character * count, timestamp=TIME), channel="news")

    most = (MAX_GO_BYTES - len(message(0))) // size
    assert len(bodies("news", message(most))) == 1
    assert bodies("news", message(most + 1)) == []
