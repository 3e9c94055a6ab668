"""The embedded HTTP server, and the viewer's pages."""

from __future__ import annotations

from .server import Server, serve
from .viewer import page_app

__all__ = ["Server", "page_app", "serve"]
