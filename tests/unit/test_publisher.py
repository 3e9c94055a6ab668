"""The methods that publish: what each hands on, and where to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ws_hub.backplane.publisher import AbstractPublisher
from ws_hub.errors import InvalidName
from ws_hub.protocol.message import Message, MessageType, decode


class Recorder(AbstractPublisher):
    """Keeps what is handed on."""

    def __init__(self) -> None:
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
