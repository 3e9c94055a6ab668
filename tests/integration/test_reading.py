"""Reading kept messages: by the application, and by clients; from memory and from a file."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ws_hub import ChannelRule, Hub, HubConfig, HubNotRunning, Message, SqliteHistory, serve
from ws_hub.server.server import Server
from ws_hub.testing import HubClient

RULES = [ChannelRule(pattern="kept:*", history_messages=10)]
START = 1_700_000_000


def event(data: Any) -> Message:
    return Message("event", data=data)


def at(seconds: int) -> str:
    """Return the time of a message, as the wire has it."""
    moment = datetime.datetime.fromtimestamp(START + seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture(params=["memory", "file"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    store = SqliteHistory(tmp_path / "hub.db") if request.param == "file" else None
    refused = "kept:secret"
    with Hub(
        HubConfig(
            history=store,
            rules=RULES,
            channel_authoriser=lambda client, channel: channel != refused,
        )
    ) as hub:
        yield hub


@pytest.fixture
def server(hub: Hub) -> Iterator[Server]:
    with serve(hub) as server:
        yield server


def publish(hub: Hub, count: int, channel: str = "kept:a") -> None:
    for number in range(1, count + 1):
        hub.send_to_channel(channel, Message("event", data=number, timestamp=at(number)))
    assert hub.wait_for_room(channel)


def test_the_application_reads_pages_forwards_and_backwards(hub: Hub) -> None:
    publish(hub, 15)
    page = hub.history("kept:a")
    assert [each.data for each in page.messages] == list(range(6, 16))
    assert (page.first, page.last) == (6, 15)
    assert page.epoch

    def read(**where: Any) -> list[int | None]:
        return [each.seq for each in hub.history("kept:a", **where).messages]

    assert read(since=12) == [13, 14, 15]
    assert read(since=0, limit=2) == [6, 7]
    assert read(since=15) == []
    assert read(last=2) == [14, 15]
    assert read(before=9) == [6, 7, 8]
    assert read(before=9, limit=1) == [8]
    assert read(since_time=START + 14) == [14, 15]
    later = datetime.datetime.fromtimestamp(START + 15, datetime.UTC)
    assert read(since_time=later) == [15]
    assert hub.history("kept:b").messages == ()
    assert hub.history("plain").messages == ()


def test_wrong_questions_of_the_application_are_refused(hub: Hub) -> None:
    with pytest.raises(ValueError, match="mutually exclusive"):
        hub.history("kept:a", since=1, last=1)
    with pytest.raises(ValueError, match="must not be negative"):
        hub.history("kept:a", before=-1)
    with pytest.raises(ValueError, match="must have a time zone"):
        hub.history("kept:a", since_time=datetime.datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(TypeError, match="must be POSIX seconds or a datetime"):
        hub.history("kept:a", since_time="yesterday")  # type: ignore[arg-type]
    hub.stop()
    with pytest.raises(HubNotRunning):
        hub.history("kept:a")


def test_a_client_reads_pages(hub: Hub, server: Server) -> None:
    publish(hub, 15)
    with HubClient(server.url) as client:

        def ask(**where: Any) -> Any:
            client.send(Message("history", channel="kept:a", id=1, **where))
            return client.expect(type="ack").data

        page = ask()
        assert page == {
            "channel": "kept:a",
            "epoch": hub.history("kept:a").epoch,
            "first": 6,
            "seq": 15,
            "messages": page["messages"],
        }
        assert page["messages"][0] == {
            "type": "event", "channel": "kept:a", "data": 6, "timestamp": at(6), "seq": 6,
        }  # fmt: skip

        def read(**where: Any) -> list[int]:
            return [each["seq"] for each in ask(**where)["messages"]]

        assert read(since=12) == [13, 14, 15]
        assert read(before=9, limit=2) == [7, 8]
        assert read(last=1) == [15]
        assert read(since_time=at(14)) == [14, 15]
        assert read(limit=0) == []


def test_a_page_for_a_client_has_a_bounded_size(hub: Hub, server: Server) -> None:
    for number in range(5):
        hub.send_to_channel("kept:a", event(f"{number}" + "x" * 100_000))
    assert hub.wait_for_room("kept:a")
    with HubClient(server.url) as client:
        for where, expected in (({}, [1, 2]), ({"last": 5}, [4, 5]), ({"since": 4}, [5])):
            client.send(Message("history", channel="kept:a", id=1, **where))
            page = client.expect(type="ack").data
            assert [each["seq"] for each in page["messages"]] == expected


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        ({"channel": "kept:secret", "id": 1}, "forbidden", "not allowed"),
        ({"channel": "kept:a"}, "bad_message", "an id is required"),
        ({"channel": "kept:a", "id": 1, "since": 1, "last": 1}, "bad_message", "exclusive"),
        ({"channel": "kept:a", "id": 1, "limit": -1}, "bad_message", "negative"),
        ({"channel": "kept:a", "id": 1, "since_time": "noon"}, "bad_message", "RFC 3339"),
        ({"channel": "", "id": 1}, "bad_channel", "invalid channel"),
    ],
)
def test_wrong_questions_of_a_client_are_answered_with_an_error(
    server: Server, request_: dict[str, Any], code: str, text: str
) -> None:
    with HubClient(server.url) as client:
        client.send(Message("history", **request_))
        answer = client.expect(type="error")
        assert (answer.code, answer.id) == (code, request_.get("id"))
        assert text in answer.data


def test_a_subscription_begins_at_a_time(hub: Hub, server: Server) -> None:
    publish(hub, 15)
    with HubClient(server.url) as client:
        for seconds, recovered, expected in (
            (14, True, [14, 15]),
            (99, True, []),
            (1, False, list(range(6, 16))),
        ):
            request = Message("subscribe", channel="kept:a", id=1, since_time=at(seconds))
            client.send(request)
            ack = client.expect(type="ack").data
            assert (ack["recovered"], ack["replayed"]) == (recovered, len(expected))
            found = [client.expect(channel="kept:a").seq for _ in expected]
            assert found == expected
            client.unsubscribe("kept:a")


@pytest.mark.parametrize("position", [{"since": 99}, {"since": 3, "epoch": "another"}])
def test_a_position_that_is_not_known_gets_what_is_kept(
    hub: Hub, server: Server, position: dict[str, Any]
) -> None:
    publish(hub, 3)
    with HubClient(server.url) as client:
        ack = client.subscribe("kept:a", **position)
        assert (ack["recovered"], ack["replayed"]) == (False, 3)
        assert [client.expect(channel="kept:a").seq for _ in range(3)] == [1, 2, 3]
