"""Decides about an opening handshake on the server's side (RFC 6455 section 4.2).

The facts of a request go in, an answer comes out. The check comes before any WebSocket
code sees the request, because the stock parts accept handshakes that they should refuse
and answer 500 to errors of the client (FAULTS 1.18, 1.19).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import CloseCode
from ..origin import is_allowed, parse_origin
from .compression import agree

__all__ = [
    "FOREIGN",
    "RETRY",
    "SUBPROTOCOL",
    "Answer",
    "Request",
    "as_environ",
    "decide",
    "refusal",
]

FOREIGN = "this Origin is not allowed to connect"
RETRY = ("Retry-After", "5")  # seconds until capacity may be free again
SUBPROTOCOL = "ws-hub"

_EXTENSIONS = "Sec-WebSocket-Extensions"
# What a refusal is to a connection that was accepted elsewhere. A client that hears 4401 or
# 4403 does not come back, as it does not after 401 and 403.
_CLOSE_CODES = {
    "401": CloseCode.UNAUTHENTICATED,
    "403": CloseCode.FORBIDDEN,
    "429": CloseCode.POLICY,
    "503": CloseCode.TRY_AGAIN,
}
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


@dataclass(frozen=True, slots=True)
class Request:
    """The facts of a request that a handshake depends on.

    Args:
        method: `GET`.
        http_version: `HTTP/1.1`.
        scheme: `http` or `https`, as the server sees it.
        headers: by lower-case name; several of one name joined with ", ".
        direct: whether it is known that no proxy has ended TLS before the server.
    """

    method: str
    http_version: str
    scheme: str
    headers: Mapping[str, str]
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a handshake: 101 and its headers, or a refusal with its reason."""

    status: str
    headers: Sequence[tuple[str, str]] = field(default=())
    body: bytes = b""

    @property
    def accepted(self) -> bool:
        """Whether the connection becomes a WebSocket."""
        return self.status.startswith("101")

    @property
    def compression(self) -> bool:
        """Whether the answer agrees on permessage-deflate."""
        return any(name == _EXTENSIONS for name, _ in self.headers)

    @property
    def close_code(self) -> CloseCode:
        """The close code of a refusal, for a connection that is a WebSocket already."""
        return _CLOSE_CODES.get(self.status[:3], CloseCode.PROTOCOL_ERROR)

    @property
    def text(self) -> str:
        """What a refusal says, without the end of its line."""
        return self.body.decode().strip()

    def to_bytes(self) -> bytes:
        """Return the answer as an HTTP/1.1 response, for a connection that ws_hub owns."""
        lines = [f"HTTP/1.1 {self.status}", *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + self.body


def refusal(status: str, text: str, *headers: tuple[str, str]) -> Answer:
    """Return a refusal in plain text."""
    body = (text + "\n").encode()
    return Answer(
        status,
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            *headers,
        ],
        body,
    )


def decide(
    request: Request,
    *,
    allowed_origins: Collection[str] = (),
    require_origin: bool = False,
    check_origin: Callable[[], bool] | None = None,
    compression: bool = False,
) -> Answer:
    """Return the answer to an opening handshake.

    400 and 405 for a request that is no valid handshake, 426 for plain HTTP or another
    WebSocket version, 403 for an Origin that is neither the request's own nor allowed, else
    101. `check_origin` replaces the comparison of the Origin. `compression` accepts an offer
    of permessage-deflate.
    """
    headers = request.headers
    if request.method != "GET":
        return refusal(
            "405 Method Not Allowed", "a WebSocket handshake is a GET request", ("Allow", "GET")
        )
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        return refusal(
            "426 Upgrade Required",
            "This is a WebSocket endpoint; connect to it with ws:// or wss://.",
            ("Sec-WebSocket-Version", "13"),
        )
    if headers.get("sec-websocket-version", "").strip() != "13":
        return refusal(
            "426 Upgrade Required",
            "only WebSocket version 13 is supported",
            ("Sec-WebSocket-Version", "13"),
        )
    fault = _malformed(request)
    if fault:
        return refusal("400 Bad Request", fault)
    if check_origin is None:
        allowed = _origin_allowed(request, allowed_origins, require_origin)
    else:
        allowed = check_origin()
    if not allowed:
        return refusal("403 Forbidden", FOREIGN)
    key = headers["sec-websocket-key"].strip().encode()
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
    chosen = []
    # A browser may offer its token as a second subprotocol. That one is never selected: the
    # answer is visible to everything that logs responses. But one must be selected, or the
    # browser gives up.
    if SUBPROTOCOL in _tokens(headers.get("sec-websocket-protocol", "")):
        chosen.append(("Sec-WebSocket-Protocol", SUBPROTOCOL))
    agreed = agree(headers.get("sec-websocket-extensions", "")) if compression else ""
    if agreed:
        chosen.append((_EXTENSIONS, agreed))
    return Answer(
        "101 Switching Protocols",
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept),
            *chosen,
        ],
    )


def as_environ(head: bytes) -> dict[str, str]:
    """Return the header fields of a request's head under their PEP 3333 names.

    Empty when the head is incomplete or malformed.
    """
    text, end, _ = head.partition(b"\r\n\r\n")
    environ: dict[str, str] = {}
    for line in text.decode("latin-1").split("\r\n")[1:] if end else ():
        name, colon, value = line.partition(":")
        if not colon:
            return {}
        key = f"HTTP_{name.upper().replace('-', '_')}"
        own = [environ[key]] if key in environ else []
        environ[key] = ",".join([*own, value.strip()])
    return environ


def _malformed(request: Request) -> str:
    """Return the reason to refuse the request as malformed; "" when it is well-formed."""
    headers = request.headers
    if request.http_version != "HTTP/1.1":
        return "a WebSocket handshake needs HTTP/1.1"
    if not headers.get("host", "").strip():  # RFC 9112 section 3.2
        return "the Host header is missing"
    if "upgrade" not in _tokens(headers.get("connection", "")):
        return "the Connection header must say Upgrade"
    if headers.get("content-length", "0").strip() not in ("", "0") or headers.get(
        "transfer-encoding"
    ):
        return "a WebSocket handshake has no body"
    try:
        key = base64.b64decode(headers.get("sec-websocket-key", "").strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 16:
        return "Sec-WebSocket-Key must be 16 bytes in base64"
    return ""


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


def _origin_allowed(request: Request, allowed: Collection[str], required: bool) -> bool:
    text = request.headers.get("origin")
    if text is None:  # not a browser
        return not required
    if is_allowed(text, allowed):
        return True
    origin = parse_origin(text)
    if origin is None or origin[0] not in ("http", "https"):
        # "null", an empty Origin, two Origin headers, or an application's own scheme.
        return False
    own = parse_origin(f"{origin[0]}://{request.headers.get('host', '')}")
    # A proxy that ends TLS passes on plain HTTP, so a secure origin may meet a plain request. A
    # plain origin must not reach a secure server: an attacker on the network may have made its
    # page.
    if request.direct:
        return origin == own and origin[0] == request.scheme
    return origin == own and (origin[0] == "https" or request.scheme == "http")
