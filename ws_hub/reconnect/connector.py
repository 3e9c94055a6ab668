"""Opens a WebSocket: address, TCP, proxy, TLS and handshake, within one deadline.

Any thread can abort an attempt at any step. The handshake is websocket-client's, over an
`Exchange` in place of its socket, which adds the bounds that it lacks.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from websocket import WebSocket, WebSocketException, WebSocketTimeoutException

from .. import threads
from ..access.tokens import token_protocol
from ..errors import CloseCode, ConfigError, ProtocolError, excerpt
from ..protocol import compression
from ..protocol.handshake import SUBPROTOCOL
from ..protocol.message import Message, MessageType
from ..reentrant import Event
from ..validation import is_line
from .config import ReconnectConfig
from .connection import Connection
from .http import Exchange, parse_head
from .stream import WRITE, Stream

__all__ = ["Connector", "Target", "parse_target"]

Address = tuple[Any, ...]  # as getaddrinfo has it

_CONNECT_SLICE = 0.2  # seconds of one poll: not every system wakes it for a connecting socket
_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR)


@dataclass(frozen=True, slots=True)
class Target:
    """The server that a URL names: host, port, and whether it speaks TLS."""

    host: str
    port: int
    tls: bool

    @property
    def is_loopback(self) -> bool:
        """Whether the name alone says that it is this machine."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost" or self.host.endswith(".localhost")


def parse_target(config: ReconnectConfig) -> Target:
    """Return the target of the config's URL; raises ConfigError when it has none."""
    try:
        parts = urlsplit(config.url)
        host, port = parts.hostname, parts.port
        if host:
            host.encode("idna")
    except ValueError as error:
        raise ConfigError(f"url must be like ws://host:port/path: {error}") from error
    if not host:
        raise ConfigError("url must name a host, as ws://host:port/path")
    if parts.username is not None:
        raise ConfigError("url must not carry credentials; put them into headers")
    texts: list[object] = [*config.headers, *config.headers.values(), config.origin or ""]
    for text in (*texts, *config.subprotocols, config.url):
        if not is_line(text):
            raise ConfigError(f"headers, origin and url must be one line of text: {excerpt(text)}")
    tls = parts.scheme == "wss"
    return Target(host, port if port is not None else 443 if tls else 80, tls)


class Connector:
    """One attempt to connect. One thread calls `run`, once; any thread may call `abort`.

    Args:
        config: the URL, and how to connect to it.
        clock: returns monotonic seconds.
    """

    def __init__(self, config: ReconnectConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._target = parse_target(config)
        # guards: _aborted, _stream. Taken before the stream's lock.
        self._lock = threading.RLock()
        self._aborted = False
        self._stream: Stream | None = None
        # Written by the thread in `run` alone.
        self._token = ""
        self._compression = False
        self._wake = Event()  # set when the name lookup has ended or the attempt is aborted

    # --- any thread ------------------------------------------------------------------------

    def abort(self) -> None:
        """Make `run` raise soon; shut down a connection that it has returned already."""
        with self._lock:
            self._aborted = True
            if self._stream is not None:
                self._stream.shutdown("aborted")
        self._wake.set()

    # --- the thread in run -----------------------------------------------------------------

    def run(self) -> Connection:
        """Connect; return the open connection.

        Raises HandshakeRefused, ProtocolError, an OSError (TimeoutError is one), or
        ConfigError when the server does not read the token where `token_in` puts it.
        """
        self._token = self._fresh_token()
        deadline = self._clock() + self._config.connect_timeout
        try:
            if self._config.dialer is not None:
                received = self._open_with_dialer(self._config.dialer)
            else:
                received = self._open(deadline)
            assert self._stream is not None
            return Connection(
                self._stream,
                received,
                self._config,
                compression=self._compression,
                clock=self._clock,
            )
        except BaseException:
            if self._stream is not None:
                self._stream.close()
            raise

    @property
    def auth_message(self) -> Message | None:
        """The first message of the connection, if the token is sent in one."""
        if self._token and self._config.token_in == "message":
            return Message(MessageType.AUTH, data=self._token)
        return None

    def _fresh_token(self) -> str:
        """Return the token for this attempt, "" for none; raises ConnectionError."""
        token: object = self._config.token
        if callable(token):
            try:
                token = token()
            except Exception as error:
                # The type alone: the text may hold a secret, and this error is logged.
                raise ConnectionError(
                    f"token raised {type(error).__name__}: it must return one line of text"
                ) from error
        if token is None:
            return ""
        if not is_line(token) or not token:
            raise ConnectionError("token must return one line of text")
        return token

    def _adopt(self, sock: socket.socket) -> Stream:
        stream = Stream(sock, self._clock)
        with self._lock:
            self._stream = stream
            if self._aborted:
                raise ConnectionAbortedError("aborted")
        return stream

    def _open_with_dialer(self, dialer: Callable[..., Any]) -> bytes:
        websocket = dialer(self._config)
        # The bytes that it has read beyond the last frame it returned.
        received = b"".join(websocket.frame_buffer.recv_buffer)
        self._adopt(websocket.sock)
        return received

    def _open(self, deadline: float) -> bytes:
        proxy = _proxy_for(self._target)
        if proxy is None:
            stream = self._connect(self._target.host, self._target.port, deadline)
        else:
            stream = self._connect(proxy[0], proxy[1], deadline)
            self._tunnel(stream, proxy[2], deadline)
        if self._target.tls:
            context = self._config.ssl_context or ssl.create_default_context()
            stream.start_tls(context, self._target.host, deadline)
        return self._handshake(stream, deadline)

    # --- TCP ---

    def _connect(self, host: str, port: int, deadline: float) -> Stream:
        """Try each address in turn, each with an equal share of the time that is left."""
        addresses = self._resolve(host, port, deadline)
        failure: OSError = OSError(f"no address for {excerpt(host)}")
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            share = (deadline - self._clock()) / (len(addresses) - index)
            try:
                stream = self._adopt(socket.socket(family, kind, protocol))
                self._connect_to(stream, address, self._clock() + share)
                return stream
            except OSError as error:
                # Whatever the error: EHOSTUNREACH or a timeout on IPv6 says nothing of IPv4.
                failure = error
                with self._lock:
                    if self._stream is not None:
                        self._stream.close()
                        self._stream = None
                    if self._aborted:
                        break
        raise failure

    def _connect_to(self, stream: Stream, address: Any, deadline: float) -> None:
        sock = stream.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        code = sock.connect_ex(address)
        while code in _UNDER_WAY:
            if stream.wait(WRITE, min(deadline, self._clock() + _CONNECT_SLICE)):
                stream.push()  # raises when aborted
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                break
            if self._clock() >= deadline:
                raise TimeoutError(
                    f"no connection to {excerpt(address)} in time: check host and port, or raise "
                    "connect_timeout"
                )
        if code:
            raise OSError(code, os.strerror(code))

    def _resolve(self, host: str, port: int, deadline: float) -> list[Address]:
        with contextlib.suppress(OSError):
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
        # The resolver cannot be interrupted: it runs on a thread, which is not joined when
        # the attempt ends before the answer.
        answer: list[list[Address] | OSError] = []

        def look_up() -> None:
            try:
                answer.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                answer.append(error if isinstance(error, OSError) else OSError(str(error)))
            self._wake.set()

        thread = threads.start("ws-hub:resolve", look_up)
        self._wake.wait(max(deadline - self._clock(), 0.0))
        if not answer:
            raise TimeoutError(
                f"no address for {excerpt(host)} in time: check the name, or raise connect_timeout"
            )
        threads.join(thread, 1.0)
        if isinstance(answer[0], OSError):
            raise answer[0]
        return answer[0]

    def _tunnel(self, stream: Stream, credentials: str, deadline: float) -> None:
        name = _host_header(self._target, always_port=True)
        lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}"]
        if credentials:
            lines.append(f"Proxy-Authorization: Basic {credentials}")
        exchange = Exchange(stream, "", deadline, self._clock)
        exchange.write("\r\n".join([*lines, "", ""]).encode())
        status, reason, _ = parse_head(exchange.read_head())
        if status != 200:
            raise ConnectionError(f"the proxy answered {status} {excerpt(reason)}")

    # --- handshake ---

    def _handshake(self, stream: Stream, deadline: float) -> bytes:
        config = self._config
        headers = {name: value for name, value in config.headers.items()}
        lowered = {name.lower(): name for name in headers}
        cookie = headers.pop(lowered["cookie"]) if "cookie" in lowered else ""
        host = headers.pop(lowered["host"]) if "host" in lowered else None
        protocols = list(config.subprotocols)
        if self._token and config.token_in == "header":
            headers["Authorization"] = f"Bearer {self._token}"
        elif self._token and config.token_in == "subprotocol":
            protocols += [SUBPROTOCOL, token_protocol(self._token)]
        if protocols:
            headers["Sec-WebSocket-Protocol"] = ",".join(protocols)
        if config.compression:
            headers["Sec-WebSocket-Extensions"] = compression.OFFER
        exchange = Exchange(
            stream,
            cookie,
            deadline,
            self._clock,
            protocols=protocols,
            compression=config.compression,
        )
        try:
            WebSocket().connect(  # type: ignore[no-untyped-call]
                config.url,
                socket=exchange,
                header=[f"{name}: {value}" for name, value in headers.items()],
                host=host or _host_header(self._target),
                origin=config.origin,
                suppress_origin=config.origin is None,
                redirect_limit=0,
            )
        except WebSocketTimeoutException as error:
            raise TimeoutError(
                "no handshake in time: check the port, or raise connect_timeout"
            ) from error
        except WebSocketException as error:
            raise ProtocolError(
                CloseCode.PROTOCOL_ERROR, f"bad handshake: {excerpt(str(error))}"
            ) from error
        if self._token and config.token_in == "subprotocol" and not exchange.selected:
            raise ConfigError(
                "the server selected no subprotocol, so it has not read the token: it needs "
                "token_in='header' or token_in='message', or no token at all"
            )
        self._compression = exchange.agreed
        return exchange.rest


def _host_header(target: Target, *, always_port: bool = False) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    usual = target.port == (443 if target.tls else 80)
    return host if usual and not always_port else f"{host}:{target.port}"


def _proxy_for(target: Target) -> tuple[str, int, str] | None:
    """Return host, port and credentials of the environment's proxy; None without one."""
    if target.is_loopback or urllib.request.proxy_bypass(target.host):
        return None
    url = urllib.request.getproxies().get("https" if target.tls else "http")
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise OSError("only http:// proxies are supported; give a dialer for others")
    credentials = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        credentials = base64.b64encode(pair.encode()).decode()
    return parts.hostname, parts.port or 80, credentials
