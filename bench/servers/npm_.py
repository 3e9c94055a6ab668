"""The peers that JavaScript programs are: this process becomes one, and is driven alike.

The scripts in `npm/` answer the same requests on their input as the servers in Python. A
process that turns into another keeps its number, its core, its limits and the kernel's
promise to kill it with its parent.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from ..programs import NODE_MODULES, PROGRAMS
from .base import prepare

__all__ = ["BunPublish", "NodeLoop"]

_SCRIPTS = Path(__file__).resolve().parent / "npm"


class _Script:
    """A script that a program runs in place of this process."""

    program: ClassVar[str]
    script: ClassVar[str]

    def main(self) -> None:
        """Turn into the script."""
        prepare()
        path = str(PROGRAMS[self.program].find())
        environment = {**os.environ, "NODE_PATH": str(NODE_MODULES), "NODE_ENV": "production"}
        environment["DO_NOT_TRACK"] = "1"  # a server under test calls nobody
        os.execve(path, [path, str(_SCRIPTS / self.script)], environment)


class NodeLoop(_Script):
    """The package ws on Node."""

    program = "node"
    script = "node.cjs"


class BunPublish(_Script):
    """Bun's own server."""

    program = "bun"
    script = "bun.cjs"
