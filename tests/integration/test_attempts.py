"""Retries of a program's work: what the attempt before has printed last stays readable."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import python
from tests.support import TIMEOUT, wait_until, without_usage
from ws_hub import (
    APIKeyAuth,
    ChannelRule,
    Client,
    Hub,
    HubConfig,
    Message,
    SqliteHistory,
    serve,
)
from ws_hub.page import page_app
from ws_hub.testing import HubClient

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

CHANNEL = "process:p"
# A channel that keeps little, as one with a program that prints much.
SHORT = ChannelRule("process:*", history_messages=20, replay=True)
FAILS = """
    import sys
    for number in range(1, 1001): print("first", number, file=sys.stderr)
    print("the reason", file=sys.stderr)
    sys.exit(3)
"""
PRINTS = 'for number in range(1000): print("second", number)'


def made(folder: Path, kind: str, **settings: Any) -> Hub:
    store = SqliteHistory(folder / "hub.db") if kind == "sqlite" else None
    return Hub(HubConfig(history=store, usage_interval=0, **settings))


@pytest.fixture(params=["memory", "sqlite"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    with made(tmp_path, request.param, rules=[SHORT]) as found:
        yield found


def run(hub: Hub, code: str, attempt: int | None, **options: Any) -> list[dict[str, Any]]:
    """Run an attempt to its end; return its statuses."""
    statuses: list[dict[str, Any]] = []
    last = hub.history(CHANNEL).last
    hub.run_process(python(code), "p", attempt=attempt, **options).wait(TIMEOUT)
    hub.wait_for_room(CHANNEL)
    for message in hub.history(CHANNEL, since=last).messages:
        if message.type == "process_status":
            statuses.append(without_usage(message.data))
    return statuses


def texts(page: Any) -> list[str]:
    return [line.text for line in page.lines]


def test_the_last_lines_of_the_attempt_before_outlast_what_the_next_one_prints(hub: Hub) -> None:
    run(hub, FAILS, 1)
    exited = run(hub, PRINTS, 2)[-1]
    kept = [each.data for each in hub.history(CHANNEL).messages]
    assert "first 1000" not in kept
    page = hub.read_log("p", attempt=1)
    assert page.source == "attempt"
    # As much as the channel has kept: its end, and 19 lines.
    assert [line.number for line in page.lines] == [*range(983, 1002)]
    assert [*texts(page)[:1], *texts(page)[-2:]] == ["first 983", "first 1000", "the reason"]
    assert [line.stream for line in page.lines[-2:]] == ["stderr", "stderr"]
    assert page.lines[-1].time is not None
    before = without_usage(exited.pop("before"))
    assert before == {"attempt": 1, "status": "exited", "exitCode": 3, "lines": 19}
    assert exited == {"status": "exited", "exitCode": 0, "attempt": 2}
    assert hub.read_log("p", attempt=1, first=1000, lines=1).lines[0].text == "first 1000"
    assert texts(hub.read_log("p", attempt=2)) == texts(hub.read_log("p"))
    assert hub.read_log("p", attempt=3).lines == ()


def test_each_of_several_attempts_is_kept(hub: Hub) -> None:
    for attempt in range(1, 5):
        run(hub, f"print('attempt {attempt}'); raise SystemExit({attempt})", attempt)
    for attempt in range(1, 4):
        assert texts(hub.read_log("p", attempt=attempt)) == [f"attempt {attempt}"]


def test_only_the_last_bytes_are_kept(tmp_path: Path) -> None:
    with made(tmp_path, "memory", attempt_bytes=30) as hub:
        run(hub, FAILS, 1)
        run(hub, PRINTS, 2)
        assert texts(hub.read_log("p", attempt=1)) == ["first 999", "first 1000", "the reason"]
        run(hub, "print('x' * 5000)", 3)
        run(hub, PRINTS, 4)
        assert texts(hub.read_log("p", attempt=3)) == ["x" * 5000]  # one line is, at least


@pytest.mark.parametrize(
    ("settings", "attempts"),
    [
        ({"attempt_bytes": 0}, (1, 2)),
        ({"rules": [ChannelRule("attempts:*"), SHORT]}, (1, 2)),
        ({}, (1, 1)),
        ({}, (2, 1)),
        ({}, (2, 2)),
        ({}, (None, None)),
    ],
)
def test_nothing_is_kept_where_there_is_no_attempt_before(
    tmp_path: Path, settings: dict[str, Any], attempts: tuple[int | None, int | None]
) -> None:
    with made(tmp_path, "memory", **settings) as hub:
        run(hub, FAILS, attempts[0])
        for status in run(hub, PRINTS, attempts[1]):
            assert "before" not in status
        assert hub.history("attempts:p").messages == ()


def test_a_first_attempt_without_a_number_counts_as_the_one_before(hub: Hub) -> None:
    run(hub, FAILS, None)
    running = run(hub, "print('again')", 2)[0]
    assert running["before"]["attempt"] == 1
    assert texts(hub.read_log("p", attempt=1))[-1] == "the reason"


def test_an_attempt_that_could_not_start_is_said_to_have(hub: Hub) -> None:
    with pytest.raises(OSError, match="no-such-program"):
        hub.run_process(["no-such-program"], "p", attempt=1)
    running = run(hub, PRINTS, 2)[0]
    before = running["before"]
    assert (before["attempt"], before["status"], before["lines"]) == (1, "failed", 0)
    assert "no-such-program" in before["error"]


def test_what_was_kept_outlasts_the_hub(tmp_path: Path) -> None:
    with made(tmp_path, "sqlite", rules=[SHORT]) as hub:
        run(hub, FAILS, 1)
    with made(tmp_path, "sqlite", rules=[SHORT]) as hub:
        run(hub, PRINTS, 2)
    with made(tmp_path, "sqlite", rules=[SHORT]) as hub:
        assert texts(hub.read_log("p", attempt=1))[-1] == "the reason"


def test_an_attempt_is_read_by_http_by_those_that_may_read_the_channel(tmp_path: Path) -> None:
    def may(client: Client, channel: str) -> bool:
        return client.user_id == "ann" and channel == CHANNEL

    settings: dict[str, Any] = {
        "authenticator": APIKeyAuth({"a": "ann", "b": "ben"}),
        "channel_authoriser": may,
    }
    with made(tmp_path, "memory", **settings) as hub, serve(hub, app=page_app(hub)) as server:
        run(hub, FAILS, 1)
        run(hub, PRINTS, 2)

        def get(query: str, key: str = "a") -> tuple[int, bytes]:
            url = f"http://127.0.0.1:{server.port}/api/processes/p/log?{query}"
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as refused:
                return refused.code, refused.read()

        status, body = get("attempt=1&last=2")
        found = json.loads(body)
        assert status == 200, body
        assert found["source"] == "attempt"
        assert [line["text"] for line in found["lines"]] == ["first 1000", "the reason"]
        assert found["lines"][1]["stream"] == "stderr"
        assert without_usage(found["status"]) == {"status": "exited", "exitCode": 3, "attempt": 1}
        assert [
            each["line"] for each in json.loads(get("attempt=1&search=reason")[1])["lines"]
        ] == [1001]
        assert get("attempt=1&download")[1].endswith(b"first 1000\nthe reason\n")
        assert json.loads(get("attempt=2&last=1")[1])["lines"][0]["text"] == "second 999"
        for attempt in ("3", "99"):
            status, body = get(f"attempt={attempt}")
            assert status == 404, body
            assert b"nothing is kept of attempt" in body
        assert get("attempt=0")[0] == 400
        assert get("attempt=1", "b")[0] == 403


LARGE = [ChannelRule(name, history_messages=20_000, history_bytes=1 << 26)
         for name in ("process:*", "attempts:*")]  # fmt: skip


def test_attempts_are_found_behind_megabytes_of_others(tmp_path: Path) -> None:
    with made(tmp_path, "sqlite", attempt_bytes=3_000_000, rules=LARGE) as hub:
        for attempt in range(1, 5):
            code = f"print(*(f'{attempt} {{n}} ' + 'x' * 60000 for n in range(40)), sep='\\n')"
            run(hub, code, attempt)
        for attempt in range(1, 4):
            page = hub.read_log("p", attempt=attempt)
            assert [text.split()[:2] for text in texts(page)[-1:]] == [[str(attempt), "39"]]


def test_the_last_lines_of_more_than_a_page_are_kept(tmp_path: Path) -> None:
    with made(tmp_path, "memory", attempt_bytes=10_000_000, rules=LARGE) as hub:
        run(hub, "for n in range(100): print(n, 'x' * 60000)", 1)
        run(hub, PRINTS, 2)
        assert hub.read_log("p", attempt=1).first == 1
        assert texts(hub.read_log("p", attempt=1, last=1))[0].split()[0] == "99"


def test_no_more_is_kept_than_a_message_may_have(tmp_path: Path) -> None:
    with made(tmp_path, "memory", attempt_bytes=4_000_000, rules=LARGE) as hub:
        run(hub, "for n in range(100): print(n, '\\x01' * 40000)", 1)  # six times as long in JSON
        before = run(hub, PRINTS, 2)[0]["before"]
        page = hub.read_log("p", attempt=1)
        assert 1 < before["lines"] == len(page.lines) < 100
        assert page.last == 100


def test_what_cannot_be_a_message_keeps_no_attempt_from_beginning(tmp_path: Path) -> None:
    with made(tmp_path, "memory", attempt_bytes=4_000_000, rules=LARGE) as hub:
        run(hub, "print('\\x01' * 4_000_000)", 1)  # a line of 24 MB in JSON
        assert "before" not in run(hub, PRINTS, 2)[0]


def test_a_name_that_is_refused_keeps_nothing(tmp_path: Path) -> None:
    def is_name(name: str) -> bool:
        return not name.startswith("attempts:")

    with made(tmp_path, "memory", channel_name=is_name) as hub:
        run(hub, FAILS, 1)
        run(hub, PRINTS, 2)
        assert hub.read_log("p", attempt=1).lines == ()
        assert hub.read_log("p", attempt=2).last == 1000


@pytest.mark.parametrize("number", ["x", [1], None, 1.5])
def test_a_status_of_others_keeps_no_attempt_from_beginning(hub: Hub, number: object) -> None:
    data = {"status": "exited", "attempt": number}
    hub.send_to_channel(CHANNEL, Message("process_status", data=data), wait=TIMEOUT)
    assert run(hub, PRINTS, 2)[0]["before"]["attempt"] == 1


@pytest.mark.parametrize(("attempt", "kept"), [(2, []), (3, []), (7, [3])])
def test_an_attempt_that_was_killed_has_its_number(
    tmp_path: Path, attempt: int, kept: list[int]
) -> None:
    with made(tmp_path, "memory") as hub:
        hub.send_process_status("p", "running", extra={"attempt": 3})
        hub.send_process_lines("p", ["x" * 1000] * 200)
        run(hub, PRINTS, attempt)
        found = [each.data["data"]["attempt"] for each in hub.history("attempts:p").messages]
        assert found == kept


@pytest.mark.parametrize(
    "line", [1, {"line": 1}, {"text": 1, "line": 1}, {"text": "", "line": 1, "time": "now"}]
)
def test_lines_of_others_are_no_attempt(hub: Hub, line: object) -> None:
    data = {"attempt": 1, "status": {}, "lines": [line]}
    hub.send_event("attempt", data, channel="attempts:p")
    hub.wait_for_room("attempts:p")
    assert hub.read_log("p", attempt=1).lines == ()


def test_the_page_lists_no_channel_of_attempts(hub: Hub) -> None:
    run(hub, FAILS, 1)
    run(hub, PRINTS, 2)
    with serve(hub, app=page_app(hub)) as server:
        wait_until(lambda: "attempts:p" in hub.kept_channels(), TIMEOUT)
        url = f"http://127.0.0.1:{server.port}/api/channels"
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            assert json.load(response)["channels"] == [CHANNEL]


def test_a_viewer_of_an_attempt_is_told_of_the_one_before(hub: Hub) -> None:
    run(hub, FAILS, 1)
    with serve(hub) as server, HubClient(server.url, timeout=TIMEOUT) as client:
        client.subscribe(CHANNEL)
        hub.run_process(python(PRINTS), "p", attempt=2).wait(TIMEOUT)
        while (status := client.expect(type="process_status").data)["attempt"] == 1:
            pass  # of the history
        assert status["before"]["exitCode"] == 3
