"""The viewer's pages, at their documented place: see `server.viewer`."""

from __future__ import annotations

from .server.viewer import page_app

__all__ = ["page_app"]
