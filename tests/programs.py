"""Programs that tests start to be watched, ended and counted."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

__all__ = ["DEAF", "is_alive", "python"]

# Of a program that ignores SIGTERM, and says so once it does.
DEAF = "import signal,time;signal.signal(15,1);print('deaf',flush=True);time.sleep(60)"


def python(code: str) -> list[str]:
    """Return the command of a program in Python, which may be indented."""
    # -S: it starts at once, without the packages of the tests, coverage among them.
    return [sys.executable, "-S", "-c", textwrap.dedent(code)]


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that waits to be reaped has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):  # the latter when it ends between two calls
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
