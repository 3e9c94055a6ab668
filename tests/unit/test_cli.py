"""The command line: its arguments, messages and exit codes, called in this process."""

from __future__ import annotations

import os
import re
import threading
import urllib.request
from pathlib import Path

import pytest

import ws_hub
from tests.support import RawPeer
from ws_hub.cli import main
from ws_hub.cli.tail import socket_url
from ws_hub.hub.hub import Hub


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "up", "serve", "tail", "log", "publish"])
def test_help_of_each_command_has_examples(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = helped(capsys, command, "--help")
    assert f"examples:\n  ws-hub {command}" in text


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, "--help")
    assert all(
        re.search(rf"^ +{each} ", text, re.MULTILINE)
        for each in ("run", "up", "serve", "tail", "log", "publish")
    )


def test_version_prints_the_version_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert helped(capsys, "--version") == f"ws-hub {ws_hub.__version__}\n"


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_an_invalid_port_is_refused(capsys: pytest.CaptureFixture[str], port: str) -> None:
    assert f"argument --port: invalid port value: '{port}'" in failed(
        capsys, "serve", f"--port={port}"
    )


@pytest.mark.parametrize("since", ["-1", "x"])
def test_an_invalid_since_is_refused(capsys: pytest.CaptureFixture[str], since: str) -> None:
    assert "argument --since: invalid number value" in failed(
        capsys, "tail", f"--since={since}", "ws://h/", "c"
    )


def test_a_missing_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "required: COMMAND" in failed(capsys)


@pytest.mark.parametrize(
    ("text", "url", "channels"),
    [
        ("ws://h:1/ws?token=a", "ws://h:1/ws?token=a", []),
        ("http://h:1", "ws://h:1/ws", []),
        ("https://h/?channel=process%3Ab", "wss://h/ws", ["process:b"]),
        ("http://h/tools/live", "ws://h/tools/live", []),
        ("http://h/tools/?channel=a", "ws://h/tools/ws", ["a"]),
    ],
)
def test_socket_url_accepts_the_url_of_the_page(text: str, url: str, channels: list[str]) -> None:
    assert socket_url(text) == (url, channels)


def test_open_shows_the_page_and_waits_for_its_viewer(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    viewer = threading.Thread(target=_watch, args=(opened,))

    def browse(url: str) -> bool:
        opened.append(url)
        viewer.start()
        return True

    monkeypatch.setattr("webbrowser.open", browse)
    assert main(["run", "--port", "0", "--open", "--id", "b", "--", "sh", "-c", "exit 3"]) == 3
    viewer.join(5)
    assert opened[1:] == ["running", "1001"]
    assert opened[0] in capfd.readouterr().err


def _watch(opened: list[str]) -> None:
    with _viewer(opened[0], "process:b") as peer:
        opened.append(peer.recv_json()["data"]["status"])
        opened.append(str(peer.recv_close()[0]))


def _viewer(url: str, channel: str) -> RawPeer:
    """Open the page of a channel, and return the peer that it would be."""
    with urllib.request.urlopen(url, timeout=5) as response:
        assert f'"{channel}"' in response.read().decode()
    peer = RawPeer("127.0.0.1", int(url.split(":")[2].strip("/")))
    peer.send_json({"type": "subscribe", "channel": channel})
    return peer


@pytest.mark.parametrize(
    ("program", "name"), [("make", "make"), ("a b$c", "a-b-c"), ("...", "run")]
)
def test_a_process_is_named_after_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, name: str
) -> None:
    script = tmp_path / program
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    seen: list[str] = []

    def browse(url: str) -> bool:
        with _viewer(url, f"process:{name}") as peer:
            seen.append(peer.recv_json()["data"]["status"])
        return True

    monkeypatch.setattr("webbrowser.open", browse)
    assert main(["run", "--no-pty", "--port", "0", "--open", "--", str(script)]) == 0
    assert seen == ["running"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
@pytest.mark.parametrize("command", ["run", "up"])
def test_a_command_that_runs_programs_waits_for_the_end_of_its_hub(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[float | None] = []

    class Watched(Hub):
        def _stop(self, bound: float | None) -> None:
            bounds.append(bound)  # None: it is only asked for
            super()._stop(bound)

    monkeypatch.setattr(f"ws_hub.cli.{command}.Hub", Watched)
    (tmp_path / "Procfile").write_text("a: true\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main([command, "--port", "0", *(["--", "true"] if command == "run" else [])]) == 0
    assert bounds
    assert None not in bounds
