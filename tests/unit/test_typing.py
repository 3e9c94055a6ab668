"""What a type checker of an application sees of the decorators."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]  # without a cache it takes a while

ROOT = Path(__file__).resolve().parents[2]

RIGHT = """
from typing import assert_type
from collections.abc import Callable
from ws_hub import Client, Hub, Message

hub = Hub()

@hub.on_connect
def connected(client: Client) -> None: ...

@hub.on_disconnect
def gone(client: Client, code: int, reason: str) -> bool:
    return True

@hub.on("chat")
def chat(client: Client, message: Message) -> dict[str, int]:
    return {}

@hub.on_subscribe("room:*")
@hub.on_unsubscribe("room:*")
def moved(client: Client, channel: str, more: int = 0) -> None: ...

class Room:
    def enter(self, client: Client, channel: str) -> None: ...

assert_type(connected(hub.all_clients()[0]), None)
assert_type(gone(hub.all_clients()[0], 1000, ""), bool)
assert_type(chat(hub.all_clients()[0], Message("chat")), dict[str, int])
moved(hub.all_clients()[0], "room:1", more=3)
enter: Callable[[Client, str], None] = hub.on_subscribe("room:*")(Room().enter)
"""
WRONG = """
from ws_hub import Client, Hub, Message

hub = Hub()

@hub.on_connect
def connected(client: Client, code: int) -> None: ...

@hub.on_disconnect
def gone(client: Client) -> None: ...

@hub.on("chat")
def chat(client: Client, message: str) -> None: ...

@hub.on_subscribe
def entered(client: Client, channel: str) -> None: ...
"""


def check(code: str, folder: Path) -> tuple[int, str]:
    """Return the status and the report of mypy about an application."""
    pytest.importorskip("mypy")
    (folder / "application.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "application.py"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / "applications")]
    run = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    return run.returncode, run.stdout + run.stderr


def test_a_decorated_function_keeps_its_type(tmp_path: Path) -> None:
    status, report = check(RIGHT, tmp_path)
    assert status == 0, report


def test_a_function_with_other_arguments_is_found(tmp_path: Path) -> None:
    status, report = check(WRONG, tmp_path)
    assert status == 1, report
    errors = {int(line.split(":")[1]) for line in report.splitlines() if ": error: " in line}
    starts = [n for n, line in enumerate(WRONG.splitlines(), 1) if line.startswith("@hub.")]
    assert errors == set(starts), report
