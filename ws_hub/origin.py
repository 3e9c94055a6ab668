"""Parses origins (RFC 6454), compares them, and decides which are allowed.

Beside the origins of web pages there are those of applications with a scheme of their own:
`tauri://localhost`, `wails://wails`, `capacitor://localhost`, `chrome-extension://<id>`;
and `null`, which a browser sends for every page from a file or in a sandbox.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

__all__ = ["advice", "fault_of_allowed", "is_allowed", "is_of_file", "origin_of", "parse_origin"]

Origin = tuple[str, str, int]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST = 300  # characters of an origin that has a place in the cache
_NULL = "null"
_FILE = "file://"  # sent as "null" by most browsers, and unchanged by some web views
# Schemes that no page's origin has: WebSocket's own, and those that browsers send as "null".
_NEVER = frozenset({"about", "blob", "data", "file", "ftp", "javascript", "mailto", "ws", "wss"})
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?\Z|[0-9a-f:.]*:[0-9a-f:.]*\Z", re.ASCII)
_OTHER_HOST = re.compile(r"[!-~]+\Z")
_WILDCARD = re.compile(r"(https?)://\*\.([^/?#@*]+)\Z", re.IGNORECASE)


def parse_origin(text: str) -> Origin | None:
    """Return scheme, host and port, normalised; None for an invalid origin, and for `null`.

    The port is 0 if none is named and the scheme has no default.
    """
    # A page's origin is parsed three times a handshake, and is the same for most of them.
    return _parse(text) if len(text) <= _LONGEST else _parse.__wrapped__(text)


@functools.lru_cache(256)
def _parse(text: str) -> Origin | None:
    text = text.strip()
    if not text.isprintable() or " " in text:  # urlsplit removes tabs and newlines
        return None
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        return None
    if scheme in _NEVER or not scheme or not host or "://" not in text:
        return None
    if parts.username is not None or "," in host or "*" in host:
        return None
    if parts.path or parts.query or parts.fragment or text.endswith(("?", "#")):
        return None
    pattern = _HOST if scheme in _DEFAULT_PORTS else _OTHER_HOST
    if pattern.match(host) is None:
        return None
    return scheme, host, port if port is not None else _DEFAULT_PORTS.get(scheme, 0)


def origin_of(url: str) -> str:
    """Return the origin of a page on the site of a WebSocket's URL, as a browser sends it."""
    parts = urlsplit(url)
    return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"


def is_of_file(text: str) -> bool:
    """Return whether an origin is that of a page that was opened as a file."""
    return text in (_NULL, _FILE)


def advice(text: str) -> str:
    """Return what to do for a page of an origin that is not allowed."""
    if is_of_file(text):
        return "A page opened as a file has that origin: serve it from here"
    return (
        "If that page is yours, set HubConfig(allowed_origins=...) to its origin "
        '(in Flask, app.config["WS_HUB_ALLOWED_ORIGINS"])'
    )


def is_allowed(text: str, allowed: Iterable[str]) -> bool:
    """Return whether the value of an `Origin` header is among the allowed origins.

    Each of these is an origin, compared whole; `https://*.example.com` for every host below
    example.com, at any depth, but not itself; `null`; `file://`, where pages send `null`; or
    "*" for all.
    """
    text = text.strip()
    origin = parse_origin(text)
    return any(_matches(text, origin, each) for each in allowed)


def _matches(text: str, origin: Origin | None, allowed: str) -> bool:
    if allowed == "*":
        return True
    if allowed in (_NULL, _FILE):
        return text in (_NULL, allowed)
    if origin is None:
        return False
    below, wanted = _parse_allowed(allowed)
    if not below or wanted is None:
        return origin == wanted
    scheme, host, port = origin
    return (scheme, port) == (wanted[0], wanted[2]) and host.endswith("." + wanted[1])


@functools.lru_cache(1024)
def _parse_allowed(allowed: str) -> tuple[bool, Origin | None]:
    """Return whether an entry means the hosts below its origin's, and the origin."""
    match = _WILDCARD.match(allowed.strip())
    if match is None:
        return False, parse_origin(allowed)
    return True, parse_origin(f"{match[1]}://{match[2]}")


def fault_of_allowed(item: str) -> str:
    """Return the reason why an entry can match no browser's Origin; "" when it can."""
    if item in ("*", _NULL, _FILE):
        return ""
    below, origin = _parse_allowed(item)
    if origin is None:
        if "*" in item:
            return "a star must be the whole entry, or stand before a domain: https://*.a.org"
        if not item.isascii():
            return "browsers send a domain in its ASCII form, xn--..."
        if item.partition(":")[0].lower() in ("ws", "wss"):
            return "the origin is that of the page, so its scheme is http or https"
        return "an origin is only scheme://host or scheme://host:port"
    if below and (":" in origin[1] or origin[1].rpartition(".")[2].isdigit()):
        return "an IP address has no subdomains"
    return ""
