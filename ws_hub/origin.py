"""What an origin is (RFC 6454), and when two are the same one.

Must not know requests, or which origins are allowed.
"""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["parse_origin"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_origin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port, normalised; None for what is no origin."""
    text = text.strip()
    if not text.isprintable() or " " in text:  # urlsplit takes tabs and newlines out
        return None
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        return None
    if scheme not in _DEFAULT_PORTS or not host or parts.username is not None:
        return None
    if parts.path or parts.query or parts.fragment or "," in host:
        return None
    return scheme, host, port if port is not None else _DEFAULT_PORTS[scheme]
