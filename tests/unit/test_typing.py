"""What a type checker of an application sees of the decorators."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import once_a_run

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


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What mypy says of both applications, in one run: it is the package that takes the time."""
    pytest.importorskip("mypy")

    def check() -> str:
        folder = tmp_path_factory.mktemp("applications")
        for name, code in (("right", RIGHT), ("wrong", WRONG)):
            (folder / f"{name}.py").write_text(code, encoding="utf-8")
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "right.py"]
        command += ["wrong.py", "--cache-dir", str(ROOT / ".mypy_cache" / "applications")]
        run = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "MYPYPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert run.returncode == 1, run.stdout + run.stderr
        return run.stdout + run.stderr

    return once_a_run(tmp_path_factory, "mypy", check)


def errors(report: str, name: str) -> set[int]:
    """Return the lines of an application in which mypy finds an error."""
    assert "(checked 2 source files)" in report, report
    found = [line.split(":") for line in report.splitlines() if ": error: " in line]
    assert {path for path, *_ in found} <= {"right.py", "wrong.py"}, report
    return {int(line) for path, line, *_ in found if path == f"{name}.py"}


def test_a_decorated_function_keeps_its_type(report: str) -> None:
    assert errors(report, "right") == set(), report


def test_a_function_with_other_arguments_is_found(report: str) -> None:
    starts = {n for n, line in enumerate(WRONG.splitlines(), 1) if line.startswith("@hub.")}
    assert errors(report, "wrong") == starts, report
