"""The viewer's pages, under their documented name: see `server.viewer`."""

from __future__ import annotations

from .server.viewer import page_app

__all__ = ["page_app"]
