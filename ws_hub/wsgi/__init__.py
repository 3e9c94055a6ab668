"""The WSGI side: from a request of any WSGI server to a client of the hub."""

from __future__ import annotations

from .app import handle, middleware

__all__ = ["handle", "middleware"]
