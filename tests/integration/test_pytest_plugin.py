"""The plugin as a project has it: pytest finds it by itself, with nothing of ours on the path."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import once_a_run

PROJECT = """
import threading
import pytest
from ws_hub.testing import assert_no_leaks

@pytest.fixture(autouse=True)
def nothing_is_left():
    with assert_no_leaks():
        yield

def test_a_hub_runs(hub):
    assert hub.running
    assert hub.config.max_subscriptions == 1024

def test_a_hub_is_served(hub, hub_server):
    assert hub_server.url.startswith("ws://127.0.0.1:")

def test_clients_get_what_is_published(hub, hub_client):
    first, second = hub_client(), hub_client()
    first.subscribe("news")
    hub.send_event("saved", {"id": 7}, channel="news")
    assert first.expect(channel="news").data["data"] == {"id": 7}
    second.expect_nothing()

@pytest.mark.hub_config(max_subscriptions=2, max_message_size=1000)
class TestSettings:
    def test_of_a_class(self, hub):
        assert (hub.config.max_subscriptions, hub.config.max_message_size) == (2, 1000)

    @pytest.mark.hub_config(max_subscriptions=3)
    def test_the_nearest_wins(self, hub):
        assert (hub.config.max_subscriptions, hub.config.max_message_size) == (3, 1000)

@pytest.mark.hub_config("heartbeat_interval")
def test_bad_positional(hub):
    pass

@pytest.mark.hub_config(heartbeat=1)
def test_bad_name(hub):
    pass

@pytest.mark.hub_config(max_subscriptions=0)
def test_bad_value(hub):
    pass

def test_bad_expect(hub, hub_client):
    hub_client().expect(type="event", timeout=0.01)

def test_bad_thread():
    threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()

def test_after_all_that_the_next_one_passes(hub, hub_client):
    hub_client().expect_nothing()
"""


def run(directory: Path, *options: str, **files: str) -> str:
    """Run pytest on a project of these files, as its own developer does; return its report."""
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text, encoding="utf-8")
    (directory / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers --strict-config\n")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "PYTHONPATH", "COV_"))
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA"]
    process = subprocess.run(
        [*command, *options],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert process.returncode in (0, 1), process.stdout + process.stderr
    return process.stdout


def outcomes(report: str) -> dict[str, str]:
    """Return what each test has come to, by its name without module and class."""
    lines = re.findall(r"^(PASSED|FAILED|ERROR) \S*::(\w+)", report, re.MULTILINE)
    return {name: outcome for outcome, name in lines}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    def make() -> str:
        return run(tmp_path_factory.mktemp("project"), test_project=PROJECT)

    return once_a_run(tmp_path_factory, "plugin-report", make)


@pytest.mark.parametrize(
    "name", [name for name in re.findall(r"def (test_\w+)", PROJECT) if "_bad_" not in name]
)
def test_a_test_with_the_fixtures_passes_and_leaves_nothing(report: str, name: str) -> None:
    assert outcomes(report)[name] == "PASSED", report


@pytest.mark.parametrize(
    ("name", "outcome", "told"),
    [
        ("test_bad_positional", "ERROR", "the marker hub_config takes settings by name"),
        ("test_bad_name", "ERROR", "heartbeat"),
        ("test_bad_value", "ERROR", "max_subscriptions must be"),
        ("test_bad_expect", "FAILED", "a message with type='event' has not arrived"),
        ("test_bad_thread", "ERROR", "thread forgotten:"),
    ],
)
def test_what_is_wrong_fails_and_says_why(report: str, name: str, outcome: str, told: str) -> None:
    assert outcomes(report)[name] == outcome, report
    assert told in report


def test_fixtures_of_a_project_come_first(tmp_path: Path) -> None:
    """Its `hub` may be the hub of its application, which is then served and connected to."""
    conftest = """
import pytest
from ws_hub import Hub, HubConfig

@pytest.fixture
def hub():
    with Hub(HubConfig(max_subscriptions=5)) as hub:
        yield hub
"""
    project = """
def test_own(hub, hub_server, hub_client):
    client = hub_client()
    hub_client(hub_server.url).round_trip()
    assert hub.config.max_subscriptions == 5
    client.round_trip()
    assert hub.client_count() == 2
"""
    assert outcomes(run(tmp_path, conftest=conftest, test_own=project)) == {"test_own": "PASSED"}


def test_settings_may_come_from_an_overridden_fixture(tmp_path: Path) -> None:
    project = """
import dataclasses, pytest
from ws_hub import HubConfig

@pytest.fixture
def hub_config():
    return HubConfig(max_subscriptions=5)

def test_overridden(hub):
    assert hub.config.max_subscriptions == 5

class TestMore:
    @pytest.fixture
    def hub_config(self, hub_config):
        return dataclasses.replace(hub_config, max_message_size=1000)

    def test_changed(self, hub):
        assert (hub.config.max_subscriptions, hub.config.max_message_size) == (5, 1000)
"""
    report = run(tmp_path, test_own=project)
    assert outcomes(report) == {"test_overridden": "PASSED", "test_changed": "PASSED"}


def test_clients_are_closed_before_the_hub_stops(tmp_path: Path) -> None:
    """Also where the server was made for the first of them: the hub sees code 1000, not 1001."""
    project = """
import pytest
from ws_hub import HubConfig

codes = []

@pytest.fixture
def hub_config():
    return HubConfig(on_disconnect=lambda client, code, reason: codes.append(code))

def test_first(hub_client):
    hub_client().round_trip()

def test_second():
    assert codes == [1000]
"""
    report = run(tmp_path, test_own=project)
    assert outcomes(report) == {"test_first": "PASSED", "test_second": "PASSED"}, report


def test_a_fixture_of_another_meaning_is_in_no_way(tmp_path: Path) -> None:
    """A `hub` that is none of ours, in a project whose application has a hub."""
    project = """
import pytest
from flask import Flask
from ws_hub import Hub, middleware

@pytest.fixture
def hub():
    return "a port with eight sockets"

@pytest.fixture
def app():
    app = Flask(__name__)
    with Hub() as own:
        app.wsgi_app = middleware(app.wsgi_app, own)
        yield app

def test_own(hub, app, hub_client):
    assert hub == "a port with eight sockets"
    hub_client(app).round_trip()
"""
    assert outcomes(run(tmp_path, test_own=project)) == {"test_own": "PASSED"}


def test_a_project_without_hubs_does_not_notice_the_plugin(tmp_path: Path) -> None:
    project = """
import sys

def test_mine():
    assert "ws_hub" not in sys.modules
"""
    assert outcomes(run(tmp_path, test_mine=project)) == {"test_mine": "PASSED"}


def test_the_fixtures_and_the_marker_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    fixtures = run(tmp_path, "--fixtures", test_none="")
    for name in ("hub", "hub_client", "hub_config", "hub_server"):
        assert re.search(rf"^{name} -- .*\n    [A-Z]", fixtures, re.MULTILINE), fixtures
    assert "@pytest.mark.hub_config(**settings):" in run(tmp_path, "--markers")
