"""Connecting and disconnecting leaves nothing: some hundred times here, `make cycles` more."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.faults import cycles
from tests.integration.apps.launch import ROOT
from tests.support import threads_at_rest


def test_fault_44_clients_that_come_and_go_leave_no_memory() -> None:
    """In a process of its own: coverage keeps something of every thread that there was."""
    argv = [sys.executable, "-m", "tests.faults.cycles", "--memory"]
    run = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr
    before, after = map(json.loads, run.stdout.splitlines())
    assert after["threads"] == before["threads"] and after["files"] == before["files"]
    assert after["bytes"] - before["bytes"] < cycles.VISIT * cycles.VISITS


def test_fault_44_the_long_run_says_what_has_grown() -> None:
    told: list[str] = []
    assert cycles.run(150, 60.0, "embedded", told.append), told
    *steps, verdict = map(json.loads, told)
    assert verdict["cycles"] == steps[-1]["cycles"] >= 150 and verdict["grown"] == []
    before = {"threads": 4, "files": 6, "rss_bytes": 30_000_000}
    for name, value in (("threads", 5), ("files", 7), ("rss_bytes", 34_000_000)):
        assert cycles.growth(before, {**before, name: value}) == [name]
    assert cycles.growth(before, {**before, "threads": 6}, pool=2) == []


def test_fault_44_only_the_second_thread_of_a_crew_comes_without_having_grown() -> None:
    alone = ["MainThread", "ws-hub:accept", "ws-hub:reader"]
    assert threads_at_rest(alone) == threads_at_rest([*alone, *alone[1:]]) == 5
    assert threads_at_rest([*alone, *2 * alone[1:]]) == 7


def test_the_long_run_is_bounded_in_time() -> None:
    told: list[str] = []
    assert cycles.run(10**9, 0.2, "embedded", told.append), told
    assert json.loads(told[-1])["cycles"] < 10_000
