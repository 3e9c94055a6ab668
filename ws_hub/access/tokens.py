"""Extracts the credentials of a handshake: tokens, query parameters and cookies.

`bearer_token` reads a token from each of these places, so every authenticator of tokens
accepts all of them:

    Authorization: Bearer TOKEN                     programs
    Sec-WebSocket-Protocol: ws-hub, bearer.BASE64   browsers, which cannot set headers
    environ["ws_hub.token"]                         a first message, put there by the hub

Arguments are environs: mappings as in PEP 3333. Nothing here logs a token.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

__all__ = [
    "TOKEN_KEY",
    "Environ",
    "bearer_token",
    "cookie",
    "offers_token",
    "query_token",
    "token_protocol",
]

TOKEN_KEY = "ws_hub.token"  # the environ's key of a first message's token
_PREFIX = "bearer."  # begins a subprotocol that carries a token

Environ = Mapping[str, Any]


def bearer_token(environ: Environ) -> str:
    """Return the token of a request; "" when it has none."""
    if TOKEN_KEY in environ:
        return str(environ[TOKEN_KEY])
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return _text(token.strip())
    for protocol in _split(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", ""), ","):
        if protocol.startswith(_PREFIX):
            return _decoded(protocol[len(_PREFIX) :])
    return ""


def token_protocol(token: str) -> str:
    """Return the subprotocol that carries a token: a browser's way to send one."""
    return _PREFIX + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def query_token(environ: Environ, name: str = "token") -> str:
    """Return a parameter of the query string; "" when it is missing.

    Its name must not be percent-encoded: filters that hide tokens in logs search for it.
    """
    for piece in environ.get("QUERY_STRING", "").split("&"):
        key, _, value = piece.partition("=")
        if key == name:
            return unquote_plus(value)
    return ""


def cookie(environ: Environ, name: str) -> str:
    """Return the first cookie of this name; "" when there is none."""
    for pair in _split(environ.get("HTTP_COOKIE", ""), ";"):
        key, _, value = pair.partition("=")
        if key.strip() == name:
            return _text(value.strip().strip('"'))
    return ""


def offers_token(environ: Environ) -> bool:
    """Return whether a request has credentials other than cookies, valid or not."""
    return bool(environ.get("HTTP_AUTHORIZATION") or bearer_token(environ) or query_token(environ))


def _split(value: str, at: str) -> list[str]:
    return [piece.strip() for piece in value.split(at)]


def _text(value: str) -> str:
    """Decode a header as UTF-8 where it is: WSGI passes header bytes on as Latin-1."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _decoded(value: str) -> str:
    try:
        padded = value + "=" * (-len(value) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
