"""The command line: `ws-hub run`, `ws-hub serve`, `ws-hub tail`."""

from __future__ import annotations

from .commands import main

__all__ = ["main"]
