"""What the figures were measured on, and with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import programs

__all__ = ["cores", "facts"]

_DISTRIBUTIONS = (
    "ws-hub", "wsproto", "websockets", "flask", "flask-sock", "simple-websocket",
    "flask-socketio", "python-engineio", "flask-websockets", "websocket-server", "werkzeug",
    "gunicorn", "picows", "uvloop",
)  # fmt: skip


def cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def facts() -> dict[str, Any]:
    """Return processor, cores, kernel, Python, versions and how busy the machine is."""
    return {
        "cpu": _cpu(),
        "cores": len(cores()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "switch_interval": sys.getswitchinterval(),
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "load_average": os.getloadavg()[0],
        "commit": _commit(),
        "versions": _versions(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git
        return ""
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, **programs.versions()}
