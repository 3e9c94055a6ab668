"""The viewer's pages and the browser client, under their documented name: see `server.viewer`."""

from __future__ import annotations

from .server.viewer import page_app, script_app

__all__ = ["page_app", "script_app"]
