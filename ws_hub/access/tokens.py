"""The credentials of a handshake: where a token, a parameter or a cookie stands in it.

`bearer_token` reads a token from each of these, so that an authenticator of tokens takes
all of them alike:

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

TOKEN_KEY = "ws_hub.token"  # in environ: the token of a first message
_PREFIX = "bearer."  # of the subprotocol that is a token

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
    """Return the subprotocol by which a browser hands over a token."""
    return _PREFIX + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def query_token(environ: Environ, name: str = "token") -> str:
    """Return a parameter of the query; "" when it is not there.

    Its name must stand there as it is: what hides tokens from logs looks for it.
    """
    for piece in environ.get("QUERY_STRING", "").split("&"):
        key, _, value = piece.partition("=")
        if key == name:
            return unquote_plus(value)
    return ""


def cookie(environ: Environ, name: str) -> str:
    """Return the first cookie of a name; "" when there is none."""
    for pair in _split(environ.get("HTTP_COOKIE", ""), ";"):
        key, _, value = pair.partition("=")
        if key.strip() == name:
            return _text(value.strip().strip('"'))
    return ""


def offers_token(environ: Environ) -> bool:
    """Say whether a request brings credentials with it, good or bad, cookies aside."""
    return bool(environ.get("HTTP_AUTHORIZATION") or bearer_token(environ) or query_token(environ))


def _split(value: str, at: str) -> list[str]:
    return [piece.strip() for piece in value.split(at)]


def _text(value: str) -> str:
    """Return what was sent in UTF-8: WSGI hands over headers byte for byte."""
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
