"""The examples of process streaming, run as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_stream_process_shows_what_a_viewer_gets_and_exits_with_the_commands_code() -> None:
    done = run("stream_process.py", "sh", "-c", "echo hello; exit 3")
    assert done.returncode == 3, done.stderr
    assert [re.sub(", 'usage': {.*?}", "", each) for each in done.stdout.splitlines()[1:]] == [
        "process_status: {'status': 'running'}",
        "process_output: 'hello'",
        "process_status: {'status': 'exited', 'exitCode': 3}",
    ]


def test_stream_process_shows_why_a_command_cannot_start() -> None:
    done = run("stream_process.py", "no-such-program")
    assert done.returncode == 127, done.stderr
    assert "'status': 'failed'" in done.stdout


def test_prints_and_logs_shows_both() -> None:
    done = run("prints_and_logs.py")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    prints = sorted(line for line in lines if line.startswith("process:job: step"))
    assert prints == [f"process:job: step {number} done" for number in range(8)]
    assert sum("was slow" in line for line in lines) == 8
