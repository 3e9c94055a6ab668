"""Where the programs are that peers run on which are not Python, and their versions.

What npm has, `make bench` installs into the virtual
environment, beside what pip installs; nginx and Node come from the system's packages. A
peer without its program is left out, like one without its distribution.
"""

from __future__ import annotations

import functools
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NODE_MODULES", "PROGRAMS", "Program", "nchan", "versions"]

NODE_MODULES = Path(sys.prefix) / "npm" / "node_modules"
_NCHAN = "nginx/modules/ngx_nchan_module.so"
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
_SBIN = "/usr/sbin:/usr/local/sbin"  # not on every user's path
_BUN = {"x86_64": "@oven/bun-linux-x64", "aarch64": "@oven/bun-linux-aarch64"}


@dataclass(frozen=True)
class Program:
    """A program that a peer runs on.

    Args:
        needs: what must be installed, as the table names it.
        find: returns the executable; None unless all of `needs` is there.
    """

    needs: str
    find: Callable[[], Path | None]


def nchan() -> Path | None:
    """Return nginx's module of that name."""
    for folder in _LIBRARIES:
        if (path := Path(folder, _NCHAN)).exists():
            return path
    return None


def _nginx() -> Path | None:
    return _on_path("nginx", _SBIN) if nchan() else None


def _node() -> Path | None:
    return _on_path("node") if (NODE_MODULES / "ws").exists() else None


def _bun() -> Path | None:
    path = NODE_MODULES / _BUN.get(platform.machine(), "none") / "bin" / "bun"
    return path if path.exists() else None


def _on_path(name: str, more: str | None = None) -> Path | None:
    found = shutil.which(name) or (shutil.which(name, path=more) if more else None)
    return Path(found) if found else None


PROGRAMS: dict[str, Program] = {
    "cc": Program("a C compiler", functools.partial(_on_path, "cc")),
    "bun": Program("bun", _bun),
    "nginx": Program("nginx with libnginx-mod-nchan", _nginx),
    "node": Program("node with ws", _node),
}


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of the programs, and of what runs on them, that are installed."""
    found = {name: said for name, each in PROGRAMS.items() if (said := _said(name, each))}
    for name in ("ws", "bufferutil"):
        package = NODE_MODULES / name / "package.json"
        if "node" in found and package.exists():
            found[name] = json.loads(package.read_text(encoding="utf-8"))["version"]
    return found


def _said(name: str, program: Program) -> str:
    """Return what a program says that its version is; "" when it is not installed."""
    path = program.find()
    if path is None:
        return ""
    flag = {"nginx": "-v", "cc": "-dumpversion"}.get(name, "--version")
    done = subprocess.run([path, flag], capture_output=True, text=True, check=False)
    # "v20.20.2", "1.4.5", "12", "nginx version: nginx/1.22.1 (Debian)"
    words = (done.stdout or done.stderr).rpartition("/")[2].split()
    return words[0].removeprefix("v") if words else ""
