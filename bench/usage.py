"""What a process holds and has used, read from /proc: from outside, or by itself."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "forget_peak", "usage_of"]


@dataclass(frozen=True)
class Usage:
    """What a process holds, the most it held, and the CPU time that it has used so far."""

    rss_bytes: int
    peak_rss_bytes: int
    threads: int
    descriptors: int
    cpu_seconds: float
    now: float


def usage_of(pid: int) -> Usage:
    """Return what a process holds and has used."""
    proc = Path(f"/proc/{pid}")
    status = (proc / "status").read_text(encoding="utf-8")
    found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    ticks = (proc / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    return Usage(
        rss_bytes=int(found["VmRSS"].split()[0]) * 1024,
        peak_rss_bytes=int(found["VmHWM"].split()[0]) * 1024,
        threads=int(found["Threads"]),
        descriptors=len(os.listdir(proc / "fd")),
        cpu_seconds=sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
        now=time.monotonic(),
    )


def forget_peak(pid: int) -> None:
    """Let `peak_rss_bytes` of a process of ours begin anew, where the kernel can."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
