"""What running programs use, as viewers, pages and the list of statuses are told."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import python
from tests.support import TIMEOUT, wait_until
from ws_hub import Hub, HubConfig, SqliteHistory, serve
from ws_hub.page import page_app
from ws_hub.process import Process
from ws_hub.testing import HubClient

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/stat"), reason="needs /proc, which says what processes use"
)

CHANNEL = "process:p"
WAIT = "import signal; print('ready', flush=True); signal.pause()"
# It goes on to use more, so that there are samples all the time.
BUSY = """
    print('ready', end='', flush=True)
    while True: pass
"""


@pytest.fixture(params=["memory", "sqlite"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    store = SqliteHistory(tmp_path / "hub.db") if request.param == "sqlite" else None
    with Hub(HubConfig(usage_interval=0.02, history=store)) as made:
        yield made


@contextlib.contextmanager
def busy(hub: Hub, **options: Any) -> Iterator[Process]:
    with hub.run_process(python(BUSY), "p", **options) as process:
        wait_until(lambda: process.usage, TIMEOUT)
        yield process


def is_sample(message: Any) -> bool:
    return message.type == "process_status" and "memoryBytes" in message.data.get("usage", {})


def test_a_late_viewer_gets_the_newest_sample_and_the_history_none(hub: Hub) -> None:
    with serve(hub) as server, busy(hub, attempt=2):
        wait_until(lambda: "usage" in hub.statuses([CHANNEL]).get(CHANNEL, {}), TIMEOUT)
        with HubClient(server.url, timeout=TIMEOUT) as client:
            client.subscribe(CHANNEL, since=0)
            first, *_ = wait_until(lambda: [each for each in client.received if is_sample(each)])
            assert first.seq is None
            assert first.process_id == "p"
            assert first.data["status"] == "running"
            assert first.data["attempt"] == 2
            seconds = first.data["usage"]["cpuSeconds"]
            wait_until(  # and the later ones
                lambda: any(
                    is_sample(each) and each.data["usage"]["cpuSeconds"] > seconds
                    for each in client.received
                ),
                TIMEOUT,
            )
        kept = [each for each in hub.history(CHANNEL).messages if each.type == "process_status"]
        assert [each.data for each in kept] == [{"status": "running", "attempt": 2}]


def test_a_sample_leaves_the_unfinished_line_to_late_viewers(hub: Hub) -> None:
    with serve(hub) as server, busy(hub), HubClient(server.url, timeout=TIMEOUT) as client:
        client.subscribe(CHANNEL, since=0)
        client.expect(type="process_output", data="ready\r")
        wait_until(lambda: len([each for each in client.received if is_sample(each)]) > 2, TIMEOUT)
        with HubClient(server.url, timeout=TIMEOUT) as late:
            late.subscribe(CHANNEL, since=0)
            late.expect(type="process_output", data="ready\r")


def test_the_status_of_a_running_program_has_what_it_uses_until_it_ends(hub: Hub) -> None:
    with serve(hub, app=page_app(hub)) as server:

        def by_http() -> dict[str, Any]:
            url = f"http://127.0.0.1:{server.port}/api/processes/p/log"
            with urllib.request.urlopen(url) as response:
                found: dict[str, Any] = json.load(response)["status"]
                return found

        with busy(hub):
            hub.send_event("note", channel=CHANNEL)
            wait_until(lambda: "usage" in hub.statuses([CHANNEL]).get(CHANNEL, {}), TIMEOUT)
            assert hub.statuses([CHANNEL])[CHANNEL]["status"] == "running"
            wait_until(lambda: "memoryBytes" in by_http().get("usage", {}), TIMEOUT)
        wait_until(lambda: hub.statuses([CHANNEL])[CHANNEL]["status"] == "exited", TIMEOUT)
        assert by_http()["status"] == "exited"
        with hub.run_process(python(WAIT), "p"):  # of another run
            wait_until(lambda: by_http()["status"] == "running", TIMEOUT)


def test_the_lines_of_a_program_leave_its_sample_to_late_viewers(hub: Hub) -> None:
    code = """
        import time
        while time.process_time() < 0.1: pass
        print('ready', flush=True)
        for number in range(2000): print(number, flush=not number % 100)
        print('done', flush=True)
        import signal; signal.pause()
    """
    with serve(hub) as server, hub.run_process(python(code), "p"):
        with HubClient(server.url, timeout=TIMEOUT) as client:
            client.subscribe(CHANNEL, since=0)
            client.expect(type="process_output", data="done")
            wait_until(lambda: any(map(is_sample, client.received)), TIMEOUT)
        with HubClient(server.url, timeout=TIMEOUT) as late:
            late.subscribe(CHANNEL, since=0)
            late.expect(type="process_output", data="done")
            wait_until(lambda: any(map(is_sample, late.received)), TIMEOUT)


def test_what_an_application_says_of_its_own_program_is_a_sample_too(hub: Hub) -> None:
    usage = {"cpuSeconds": 1.5, "memoryBytes": 7}
    hub.send_process_status("p", "running")
    hub.send_process_status("p", "running", extra={"usage": usage})
    sampled = {"status": "running", "usage": usage}
    wait_until(lambda: hub.statuses([CHANNEL]).get(CHANNEL) == sampled, TIMEOUT)
    hub.send_process_status("p", "running")  # another run
    wait_until(lambda: hub.statuses([CHANNEL])[CHANNEL] == {"status": "running"}, TIMEOUT)
    assert hub.logs.status(CHANNEL) == {"status": "running"}
    message = {"type": "process_status", "data": sampled}
    hub.send_to_channel(CHANNEL, message)
    hub.send_process_status("p", "exited", 0)
    ended = {"status": "exited", "exitCode": 0}
    wait_until(lambda: hub.statuses([CHANNEL])[CHANNEL] == ended, TIMEOUT)
    assert hub.logs.status(CHANNEL) == ended
    assert len(hub.history(CHANNEL).messages) == 3
