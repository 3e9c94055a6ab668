"""A short run of faults ends well, and leaves nothing behind when it is cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.plan import Plan
from tests.chaos.run import run, table
from tests.redis_servers import SERVERS
from tests.support import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have all temporary files of a run be here."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path


@pytest.mark.timeout(240)
def test_nothing_is_lost_in_silence() -> None:
    told: list[str] = []
    outcome = run(Plan(seconds=11, clients=12, seed=14, page=False), told.append)
    shown = table(outcome)
    assert outcome.is_well, "\n".join([*told, shown])
    assert {"kill", "pause", "clock", "restart"} <= set(outcome.faults)
    kinds = outcome.verdict.kinds
    assert {"ReconnectingClient", "the wire"} <= set(kinds)
    assert all(each.messages for each in kinds.values())
    assert outcome.accepted and outcome.remote and outcome.visitors
    assert "silent losses" in shown


@pytest.mark.timeout(240)
def test_several_processes_lose_nothing_in_silence() -> None:
    told: list[str] = []
    plan = Plan(seconds=11, clients=12, seed=14, page=False, node=False, workers=3)
    outcome = run(plan, told.append)
    assert outcome.is_well, "\n".join([*told, table(outcome)])
    assert {"kill", "pause", "clock", "restart"} <= set(outcome.faults)
    assert all(each.messages for each in outcome.verdict.kinds.values())
    assert outcome.accepted and outcome.remote and outcome.visitors


@pytest.mark.timeout(240)
@pytest.mark.skipif(not SERVERS, reason="needs a Redis or a Valkey server")
def test_several_processes_and_the_server_that_connects_them_lose_nothing_in_silence() -> None:
    told: list[str] = []
    bus = next(iter(SERVERS))
    plan = Plan(seconds=11, clients=12, seed=14, page=False, node=False, workers=3, bus=bus)
    outcome = run(plan, told.append)
    assert outcome.is_well, "\n".join([*told, table(outcome)])
    faults = {each for each in outcome.faults if each.startswith("bus ")}
    assert faults == {
        f"bus {each}" for each in ("kill", "pause", "cut", "black hole", "unsubscribe")
    }
    assert all(each.messages for each in outcome.verdict.kinds.values())
    assert outcome.accepted and outcome.remote and outcome.visitors


@pytest.mark.timeout(240)
def test_a_run_that_is_interrupted_leaves_nothing(folder: Path) -> None:
    # Without a Chromium, which takes no temporary folder with a name so long.
    options = "--seconds 600 --clients 6 --seed 8 --no-page"
    command = [sys.executable, "-m", "tests.chaos", *options.split()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.endswith("pause\n")), "")
        process.send_signal(signal.SIGINT)  # the server stands still at this moment
        _, complaint = process.communicate()
        assert line, complaint
    assert process.returncode == 130, complaint
    assert "interrupted" in complaint
    assert list(folder.glob("ws-hub-*")) == []
    wait_until(lambda: not _processes_of(folder), what="the end of all processes")


def _processes_of(folder: Path) -> list[str]:
    """Return the command lines that name a folder."""
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{each}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found
