"""The methods that publish: what each hands on, and where to."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

import pytest

from ws_hub.backplane.publisher import AbstractPublisher
from ws_hub.errors import InvalidName, MessageEncodeError
from ws_hub.lines import MAX_PIECE, Lines
from ws_hub.protocol.message import Message, MessageType, decode


class Recorder(AbstractPublisher):
    """Keeps what is handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[tuple[Message, str, float | None]] = []
        self.ends: list[bool] = []

    def _publish(
        self,
        texts: Sequence[bytes],
        channel: str,
        timeout: float | None,
        *,
        ends_channel: bool = False,
        exclude: frozenset[int] = frozenset(),
        wait: float | None = None,
        of: object = None,
    ) -> None:
        for text in texts:
            self.ends.append(ends_channel)
            self.published.append((decode(text.decode()), channel, timeout))


def only(recorder: Recorder) -> tuple[dict[str, Any], str, float | None]:
    """The fields of the one message that was handed on, where to, and the time allowed."""
    ((message, channel, timeout),) = recorder.published
    fields = {
        name: value
        for name in ("type", "channel", "process_id", "data", "id", "seq")
        if (value := getattr(message, name)) not in ("", None)
    }
    assert message.timestamp.endswith("Z")
    return fields, channel, timeout


def test_a_broadcast_is_published_unchanged_to_all() -> None:
    recorder = Recorder()
    recorder.broadcast(Message("custom", data=[1], id="a"), timeout=3)
    assert only(recorder) == ({"type": "custom", "data": [1], "id": "a"}, "", 3)


def test_a_given_timestamp_is_kept() -> None:
    recorder = Recorder()
    recorder.broadcast(Message("a", timestamp="2020-01-01T00:00:00Z"))
    recorder.send_to_channel("news", Message("a", timestamp="2020-01-01T00:00:00Z"))
    assert {each.timestamp for each, _, _ in recorder.published} == {"2020-01-01T00:00:00Z"}


def test_a_channel_message_names_its_channel_and_leaves_numbering_to_the_hub() -> None:
    recorder = Recorder()
    original = Message("custom", channel="elsewhere", seq=5)
    recorder.send_to_channel("news", original, timeout=0)
    assert only(recorder) == ({"type": "custom", "channel": "news"}, "news", 0)
    assert (original.channel, original.seq) == ("elsewhere", 5)


def test_the_empty_channel_is_refused_and_is_no_broadcast() -> None:
    recorder = Recorder()
    with pytest.raises(InvalidName):
        recorder.send_to_channel("", Message("custom"))
    assert recorder.published == []


def test_output_goes_to_the_channel_of_its_process() -> None:
    recorder = Recorder()
    recorder.send_process_output("build-42", "line", timeout=1)
    assert only(recorder) == (
        {
            "type": MessageType.PROCESS_OUTPUT,
            "channel": "process:build-42",
            "process_id": "build-42",
            "data": "line",
        },
        "process:build-42",
        1,
    )


def test_several_lines_are_published_together() -> None:
    calls: list[Sequence[bytes]] = []

    class Calls(Recorder):
        def _publish(self, texts: Sequence[bytes], *args: Any, **options: Any) -> None:
            calls.append(texts)
            super()._publish(texts, *args, **options)

    recorder = Calls()
    recorder.send_process_lines("p", ["one", "two"], timeout=1)
    recorder.send_process_lines("p", [])
    assert len(calls) == 1
    assert [(m.data, m.process_id, where, t) for m, where, t in recorder.published] == [
        ("one", "p", "process:p", 1),
        ("two", "p", "process:p", 1),
    ]
    with pytest.raises(InvalidName):
        recorder.send_process_lines("a:b", [])


def test_lines_of_stderr_say_so_and_others_are_the_same_bytes_as_ever() -> None:
    texts: list[bytes] = []

    class Bytes(Recorder):
        def _publish(self, given: Sequence[bytes], *args: Any, **options: Any) -> None:
            texts.extend(re.sub(rb"\d{4}-.*?Z", b"T", text) for text in given)

    publisher = Bytes()
    begin = b'{"type":"process_output","channel":"process:p","processId":"p","data":'
    publisher.send_process_output("p", "a")
    publisher.send_process_lines("p", ["b"], numbers=[4])
    assert texts == [begin + b'"a","timestamp":"T"}', begin + b'"b","timestamp":"T","line":4}']
    texts.clear()
    publisher.send_process_output("p", "a", stream="stderr", time=1.000001)
    publisher.send_process_lines("p", ["b", "c"], stream="stderr", numbers=[4, 5], times=[None, 2])
    publisher.send_process_lines("p", ["d", 5], times=[3, 4])  # type: ignore[list-item]
    assert texts == [
        begin + b'"a","timestamp":"T","stream":"stderr","time":1000001}',
        begin + b'"b","timestamp":"T","stream":"stderr","line":4}',
        begin + b'"c","timestamp":"T","stream":"stderr","time":2000000,"line":5}',
        begin + b'"d","timestamp":"T","time":3000000}',
        begin + b'5,"timestamp":"T","time":4000000}',
    ]


def test_pieces_of_a_long_line_have_its_stream_and_time() -> None:
    recorder = Recorder()
    long = "x" * (MAX_PIECE + 10)
    recorder.send_process_output("p", long, stream="stderr", time=1)
    recorder.send_process_lines("p", ["a", long, "b"], stream="stderr", times=[None, 1, 2])
    found = [(len(m.data), m.stream, m.time) for m, _, _ in recorder.published]
    pieces = [(MAX_PIECE + 1, "stderr", 1_000_000), (10, "stderr", 1_000_000)]
    assert found == [*pieces, (1, "stderr", None), *pieces, (1, "stderr", 2_000_000)]


def test_texts_of_a_program_have_the_time_at_which_they_were_read() -> None:
    recorder = Recorder()
    lines = Lines()
    texts = lines.feed(b"one\ntwo\n", 1_771_550_276.123456)
    recorder.send_process_lines("p", texts)
    assert [(m.line, m.timestamp, m.time) for m, _, _ in recorder.published] == [
        (1, "2026-02-20T01:17:56.123456Z", None),
        (2, "2026-02-20T01:17:56.123456Z", None),
    ]


def test_what_is_no_stream_and_no_time_is_refused() -> None:
    recorder = Recorder()
    for stream in ("stdin", "", None, 2):
        with pytest.raises(MessageEncodeError, match="stream must be"):
            recorder.send_process_output("p", "x", stream=stream)  # type: ignore[arg-type]
        with pytest.raises(MessageEncodeError, match="stream must be"):
            recorder.send_process_lines("p", ["x"], stream=stream)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="divide milliseconds by 1000"):
        recorder.send_process_output("p", "x", time=1_771_550_276_123)
    with pytest.raises(ValueError, match="time zone"):
        recorder.send_process_lines("p", ["x"], times=[datetime.datetime(2026, 1, 1)])
    with pytest.raises(TypeError, match="POSIX seconds or a datetime"):
        recorder.send_process_output("p", "x", time="12:00")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="times must have one for each line, 1, not 2"):
        recorder.send_process_lines("p", ["x"], times=[1, 2])
    assert recorder.published == []


@pytest.mark.parametrize("name", ["", "a:b", "a b", "x" * 129])
def test_a_bad_process_id_is_refused(name: str) -> None:
    recorder = Recorder()
    with pytest.raises(InvalidName):
        recorder.send_process_output(name, "line")
    with pytest.raises(InvalidName):
        recorder.send_process_status(name, "running")
    assert recorder.published == []


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        ({"status": "running"}, {"status": "running"}),
        ({"status": "exited", "exit_code": 0}, {"status": "exited", "exitCode": 0}),
        (
            {"status": "exited", "exit_code": -9, "extra": {"signal": "SIGKILL"}},
            {"status": "exited", "exitCode": -9, "signal": "SIGKILL"},
        ),
        ({"status": "failed", "extra": {"error": "no"}}, {"status": "failed", "error": "no"}),
    ],
)
def test_a_status_has_the_given_fields(arguments: dict[str, Any], data: dict[str, Any]) -> None:
    recorder = Recorder()
    recorder.send_process_status("p", **arguments)
    fields, channel, timeout = only(recorder)
    assert (fields["type"], fields["data"]) == (MessageType.PROCESS_STATUS, data)
    assert (channel, timeout) == ("process:p", None)


@pytest.mark.parametrize("channel", ["", "news"])
def test_events_and_errors_go_to_all_clients_or_to_a_channel(channel: str) -> None:
    recorder = Recorder()
    where_to = {"channel": channel} if channel else {}
    recorder.send_event("released", {"version": 1}, **where_to)
    recorder.send_error("went wrong", timeout=2, **where_to)
    (event, where, _), (error, where_else, timeout) = recorder.published
    assert (event.type, event.data) == (
        MessageType.EVENT,
        {"event": "released", "data": {"version": 1}},
    )
    assert (error.type, error.data, timeout) == (MessageType.ERROR, "went wrong", 2)
    assert event.channel == error.channel == where == where_else == channel
    assert event.timestamp and error.timestamp


def test_final_statuses_are_the_last_message() -> None:
    recorder = Recorder()
    recorder.send_process_status("p", "running", 0)
    recorder.send_process_status("p", "exited", 0)
    recorder.send_process_status("p", "failed")
    recorder.send_process_output("p", "exited")
    for data in ({"status": "exited", "exitCode": 0}, {"status": "running"}, "exitCode"):
        recorder.send_to_channel("process:p", Message("process_status", data=data))
    recorder.send_to_channel("process:p", Message("custom", data={"exitCode": 0}))
    assert recorder.ends == [False, True, True, False, True, False, False, False]
