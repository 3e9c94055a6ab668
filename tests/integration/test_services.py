"""The service files of docs/howto/services.md, run as systemd and Docker would run them."""

from __future__ import annotations

import configparser
import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.apps.launch import Running, command
from tests.support import TIMEOUT, RawPeer, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "services.md"
APP = """
from flask import Flask
from ws_hub.flask import HubExtension

app = Flask(__name__)
hub = HubExtension(app).hub
"""


def blocks(language: str) -> str:
    """Return the only block of a language on the page."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return str(found)


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(blocks("ini"))
    return parser


def systemd_command() -> list[str]:
    return shlex.split(unit()["Service"]["ExecStart"])


def docker_command() -> list[str]:
    found: list[str] = json.loads(blocks("dockerfile").rpartition("CMD ")[2])
    return found


def running(argv: list[str], folder: Path) -> contextlib.AbstractContextManager[Running]:
    """Run a command of gunicorn in a folder, on a free port."""
    assert Path(argv[0]).name == "gunicorn"
    words = [sys.executable, "-m", "gunicorn", *argv[1:]]
    words[words.index("--bind") + 1] = "127.0.0.1:0"
    (folder / "app.py").write_text(APP, encoding="utf-8")
    return command(words, cwd=folder)


@pytest.mark.slow
@pytest.mark.parametrize("argv", [systemd_command, docker_command])
def test_a_stop_tells_the_clients_and_ends_in_time(
    argv: Callable[[], list[str]], tmp_path: Path
) -> None:
    with running(argv(), tmp_path) as server:
        with RawPeer(server.host, server.port) as peer:
            server.process.send_signal(signal.SIGTERM)  # as `systemctl stop` and `docker stop` do
            assert peer.recv_close()[0] == 1001
        assert server.process.wait(TIMEOUT) == 0


@pytest.mark.slow
def test_a_reload_sends_the_clients_back(tmp_path: Path) -> None:
    reload = shlex.split(unit()["Service"]["ExecReload"])
    assert reload[-1] == "$MAINPID"
    with running(systemd_command(), tmp_path) as server:
        with RawPeer(server.host, server.port) as peer:
            subprocess.run([*reload[:-1], str(server.process.pid)], check=True)
            assert peer.recv_close()[0] == 1012

        def served() -> bool:
            with contextlib.suppress(OSError, AssertionError):
                RawPeer(server.host, server.port).sock.close()
                return True
            return False

        wait_until(served, what="a new worker that serves")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT) == 0
