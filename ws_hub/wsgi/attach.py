"""From a connection that simple_websocket has accepted to a client of the hub.

simple_websocket writes without a lock, ignores short writes and queues
input without bound (FAULTS 1b), so of a connection only its parser stays in use: that holds
what was agreed on, and what has come of a frame. Its reader thread is taken away::

    ws.ws, ws.sock ──replaced──> its thread ends at its next step, and writes nothing more
    messages that it has parsed ──┐
    bytes that it was waiting for ┴─> the client's transport ──> admission, hub, callbacks

That thread mostly waits in a `recv` that nothing can interrupt. So it gets the first bytes
that come, and leaves them here; until then the client's reader, which is the request
thread, waits for its end and not for the socket. All writes are the hub's from the start.

Under TLS a write must not meet a read, in which that thread waits: it is ended first, by
the answer to a ping.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Protocol

from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from .. import threads
from ..access.admission import Decision
from ..access.authenticators import AuthResult, user_text
from ..access.proxies import Requester
from ..config import HubConfig
from ..connection.adoption import dismiss, duplicate, leave
from ..connection.transport import wait_ready
from ..errors import AdoptionError, CloseCode, excerpt
from ..log import get_logger
from ..protocol.frames import close_frame, ping_frame
from ..protocol.names import AnyId
from .app import AcceptingHub, closed_reason, request_of
from .servers import has_one_thread, take_input

__all__ = ["attach"]

logger = get_logger(__name__)

_KEY = "ws_hub.attached"  # in environ: this connection is, or was, a client
_LINGER = 1.0  # seconds that a refused peer has to answer its Close frame
_LOOK = 0.5  # seconds between looks whether the hub still waits for a sign of life
_INNERMOST = 4  # frames of a thread that a write to a socket has at most
_LEAVE = 5.0  # seconds for a thread to notice that its connection is shut down


class AttachingHub(AcceptingHub, Protocol):
    """What attaching needs of the hub beside that; see `Hub` for it."""

    @property
    def config(self) -> HubConfig: ...


def attach(
    hub: AttachingHub,
    ws: Any,
    *,
    user_id: AnyId | None = None,
    claims: Mapping[str, Any] | None = None,
) -> None:
    """Make a client of a connection that simple_websocket has accepted, until it ends.

    Messages that have come before are delivered first. From then on `ws` is closed: its
    `send`, `receive` and `close` raise `simple_websocket.ConnectionClosed`. A connection
    that the hub refuses is closed with the code that stands for it (docs/flask-sock.md),
    without callbacks. One whose peer has left already becomes a client all the same, for
    its messages and callbacks; one that was closed with `ws.close()` does not.

    Args:
        hub: the hub.
        ws: a `simple_websocket.Server`, as flask-sock hands it to a route.
        user_id: the user; an int or a UUID means its text. None asks the hub's authenticator, if
            it has one.
        claims: what else is known of that user.

    Raises TypeError for anything but such a connection, and for a user id that is none,
    InvalidName for a blank one, ValueError for a connection that was attached before and
    for claims without a user id, AdoptionError where the server has only one thread.

    Threads: the request thread of the connection; blocks until that has ended.
    """
    identity = _identity(user_id, claims)
    _check(ws)
    mark = object()
    if ws.environ.setdefault(_KEY, mark) is not mark:  # one call: two threads may try at once
        raise ValueError(
            "attach() takes each connection once, and this one is attached already: call it in "
            "one place"
        )
    takeover = _Takeover(ws)
    try:
        if not takeover.settle(hub.config.write_timeout):
            logger.info("a connection is cut: it took no answer while it was attached")
        elif takeover.state is not ConnectionState.LOCAL_CLOSING:  # else closed by the route
            _join(hub, takeover, ws.environ, identity)
    finally:
        takeover.release()


def _identity(user_id: AnyId | None, claims: Mapping[str, Any] | None) -> AuthResult | None:
    if user_id is None:
        if claims is not None:
            raise ValueError(
                "claims need the user_id that they belong to: pass user_id=... as well"
            )
        return None
    return AuthResult(True, user_text(user_id), {} if claims is None else claims)


def _check(ws: object) -> None:
    """Raise TypeError for what is no connection of simple_websocket's server."""
    # Here, as it brings asyncio: with such a connection it is imported already.
    from simple_websocket import Server  # type: ignore[import-untyped]

    if isinstance(ws, Server):
        return
    kind = type(ws)
    hint = ""
    if kind.__module__.startswith("simple_websocket"):
        hint = ", the client's side" if "Client" in kind.__name__ else ""
        hint = ", of asyncio" if kind.__name__.startswith("Aio") else hint
    raise TypeError(
        "attach() takes a simple_websocket.Server, as flask-sock hands it to a route, not "
        f"{kind.__module__}.{kind.__qualname__}{hint}"
    )


def _join(
    hub: AttachingHub, takeover: _Takeover, environ: dict[str, Any], identity: AuthResult | None
) -> None:
    """Have the hub decide, and live on this thread if it takes the connection in."""
    if has_one_thread(environ):
        takeover.refuse(CloseCode.TRY_AGAIN, "the server has only one thread")
        raise AdoptionError(
            "attach() keeps the request's thread, and this gunicorn worker has one, which its "
            "master takes for hung: use --worker-class gthread with --threads, or hub.handler()"
        )
    requester = hub.admission.requester(environ)
    request = request_of(environ, requester)
    decision = hub.admission.decide(
        request, environ, requester, closed=closed_reason(hub), identity=identity
    )
    answer = decision.answer
    if not answer.accepted:
        why = excerpt(decision.reason or answer.text)
        logger.info("connection of %s refused: %s", excerpt(requester.address), why)
        takeover.refuse(answer.close_code, answer.text)
        return
    deadline = time.monotonic() + hub.config.pong_timeout
    try:
        opened = takeover.open(lambda: time.monotonic() < deadline and not closed_reason(hub))
    except OSError as error:
        logger.warning("connection refused: %s", error)
        takeover.refuse(CloseCode.TRY_AGAIN, "no descriptor is free")
        return
    if opened is None:
        takeover.refuse(CloseCode.TRY_AGAIN, closed_reason(hub) or "no answer to a ping")
        return
    _live(hub, takeover, opened, decision, requester)


def _live(
    hub: AttachingHub,
    takeover: _Takeover,
    opened: tuple[socket.socket, bool],
    decision: Decision,
    requester: Requester,
) -> None:
    sock, borrowed = opened
    try:
        connection = hub.connect(
            sock,
            remote_address=requester.address,
            received=takeover,
            borrowed=borrowed,
            decision=decision,
        )
    except BaseException:
        if not borrowed:
            sock.close()
        raise
    connection.borrow_thread()


class _Takeover:
    """A connection on its way from simple_websocket's thread to a client of the hub.

    For the client's transport it is the parser, and what was left of the connection by
    its other reader; see `Inherited`.

    Args:
        ws: the connection. Its thread is told to end.
    """

    def __init__(self, ws: Any) -> None:
        self._ws = ws
        self._thread: Any = ws.thread
        self._parser: Any = ws.ws
        self._sock: socket.socket = ws.sock
        # Keeps the descriptor, whoever closes that object meanwhile: the number of a closed
        # one may be a stranger's (FAULTS 1c).
        self._pin = ws.sock.makefile("rb", buffering=0)
        # Written by that thread, which then ends; read when it has ended.
        self.captured = b""
        ws.ws = _ParserGuard(self, ws.ws)
        ws.sock = _SocketGuard(ws.sock)
        ws.connected = False
        ws.event.set()  # wakes a thread that waits in ws.receive()

    # --- the request thread, before there is a client --------------------------------------

    def settle(self, patience: float) -> bool:
        """Wait until the other thread writes nothing more; False after `patience` seconds.

        It may be answering pings: what it has begun to write must be whole.
        """
        deadline = time.monotonic() + patience
        pause = 0.001
        while self._is_writing():
            if time.monotonic() >= deadline:
                return False
            threads.join(self._thread, pause)
            pause = min(2 * pause, 0.05)
        self._ws.connected = False  # which it may have set while it dealt with its last bytes
        return True

    def _is_writing(self) -> bool:
        """Say whether a thread may be in a write to the connection, by what the threads run.

        simple_websocket writes in `send`, `close` and `_handle_events`, and its own thread,
        if that has to send pings, in `_thread` as well: then it surely does not where it
        stands in the selector. The kernel does not tell: its buffer may be empty before a
        thread that waits for room in it has run.
        """
        kind = type(self._ws)
        writes = (kind.send.__code__, kind.close.__code__, kind._handle_events.__code__)
        for ident, top in threads.stacks().items():
            own = ident == self._thread.ident
            # Of others only what is innermost: a write of theirs has no frames of its own.
            for frame in itertools.islice(_frames(top), None if own else _INNERMOST):
                if frame.f_code in writes and frame.f_locals.get("self") is self._ws:
                    return True
                if own and frame.f_code is kind._thread.__code__ and frame is top:
                    return bool(self._ws.ping_interval)
        return False

    def open(self, goes_on: Callable[[], bool]) -> tuple[socket.socket, bool] | None:
        """Return a socket for the connection, and whether the server closes it.

        Waits under TLS for a sign of life: None when `goes_on`, asked now and then, says
        that there has been time enough. A socket that is at its end stands for a connection
        that has ended. Raises OSError when hardly a descriptor is left.
        """
        if self.state is ConnectionState.OPEN:
            if not isinstance(self._sock, ssl.SSLSocket):
                if (sock := self._duplicate()) is not None:
                    return sock, False
            else:
                ended = self._end(ping_frame(), _LOOK)
                while not ended and goes_on():
                    ended = threads.join(self._thread, _LOOK)
                if not ended:
                    return None
                if self._sock.fileno() >= 0:
                    return self._sock, True
        near_end, far_end = socket.socketpair()
        far_end.close()
        return near_end, False

    def _duplicate(self) -> socket.socket | None:
        fd = self._sock.fileno()
        return None if fd < 0 else duplicate(fd)

    def _end(self, frame: bytes, patience: float) -> bool:
        """Send a frame that the peer answers, and wait for the other thread's end."""
        if not self._thread.is_alive():
            return True
        with contextlib.suppress(OSError, ValueError):  # the peer, or the thread, was faster
            if wait_ready(self._sock.fileno(), 0.0, write=True):
                self._sock.send(frame)
        return threads.join(self._thread, patience)

    def refuse(self, code: int, reason: str) -> None:
        """Close the connection, and give the peer a moment to read why."""
        if self.state is not ConnectionState.OPEN:
            return
        if self._end(close_frame(code, reason), _LINGER) and self._sock.fileno() >= 0:
            # What has come and nobody reads would make the kernel send a reset.
            replacement = dismiss(self._sock, b"")
            if replacement is not None:
                replacement.release()

    def release(self) -> None:
        """Leave an ended connection to the server, so that it can do nothing more with it.

        What it writes, as the response of the request, goes nowhere. It finds no further
        request, whatever the peer has sent behind its last frame (FAULTS 10, 11).
        """
        with self._pin:
            with contextlib.suppress(OSError):  # under TLS the plain one of the socket below it
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
            if not threads.join(self._thread, _LEAVE):
                logger.warning("a thread of simple_websocket does not end")
            if self._sock.fileno() >= 0:  # else closed before it was attached
                with contextlib.suppress(OSError):  # without a descriptor for a replacement
                    self._leave()

    def _leave(self) -> None:
        replacement = leave(self._sock.fileno())
        replacement.end_input()
        if isinstance(self._sock, ssl.SSLSocket):
            self._sock.shutdown(socket.SHUT_RD)  # without what is left of TLS
        take_input(self._ws.environ)
        replacement.release()

    # --- the client's reader: the request thread -------------------------------------------

    @property
    def state(self) -> ConnectionState:
        """How far the connection is, as the parser knows."""
        state: ConnectionState = self._parser.state
        return state

    def wait(self, timeout: float) -> bool:
        """Wait for messages that are parsed already, or the end of the other thread."""
        return bool(self._ws.input_buffer) or threads.join(self._thread, timeout)

    def take(self) -> bytes | None:
        """Return the bytes that the other thread has read last; None before its end."""
        return None if self._thread.is_alive() else self.captured

    def receive_data(self, data: bytes) -> None:
        """Parse some more; nothing is what comes before the other thread has ended."""
        if data:
            self._parser.receive_data(data)

    def events(self) -> Iterator[Event]:
        """Yield what was parsed, beginning with what was before this had the parser."""
        ws = self._ws
        messages = ws.input_buffer[:]
        del ws.input_buffer[: len(messages)]
        for message in messages:
            yield _piece(message, isinstance(message, str), whole=True)
        if self._thread.is_alive():
            return
        if self.state is ConnectionState.CLOSED:
            # The peer's Close frame, which simple_websocket has answered.
            yield CloseConnection(code=ws.close_reason, reason=ws.close_message)
            return
        for event in self._parser.events():
            if ws.incoming_message is not None and isinstance(event, (TextMessage, BytesMessage)):
                begun, ws.incoming_message = ws.incoming_message, None
                yield _piece(begun, isinstance(event, TextMessage), whole=False)
            yield event


class _ParserGuard:
    """What simple_websocket's thread has in the place of its parser, until it ends."""

    def __init__(self, takeover: _Takeover, parser: Any) -> None:
        self._takeover = takeover
        self._parser = parser

    def receive_data(self, data: bytes) -> None:
        """Keep what was read for the client, and end the thread."""
        self._takeover.captured = bytes(data)
        raise _taken()

    def events(self) -> Iterator[Event]:
        """End the thread: the parser keeps its events for the client."""
        raise _taken()

    def send(self, event: Event) -> bytes:
        """Encode an answer that the thread owes for what it is dealing with."""
        if isinstance(event, Ping) or not _answers():
            raise _taken()
        data: bytes = self._parser.send(event)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


class _SocketGuard:
    """What it has in the place of its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recv(self, size: int) -> bytes:
        """End the thread."""
        raise _taken()

    def send(self, data: bytes) -> int:
        """Send an answer that the thread owes for what it is dealing with."""
        if not _answers():
            raise _taken()
        self._sock.sendall(data)  # and not a part of it
        return len(data)

    def fileno(self) -> int:
        """Return the descriptor, for a selector that is told to watch it."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close nothing: the connection is the client's."""


def _taken() -> OSError:
    return OSError("the connection belongs to ws_hub")


def _answers() -> bool:
    """Say whether a guard is called by what simple_websocket answers pings and Closes with."""
    return sys._getframe(2).f_code.co_name == "_handle_events"


def _frames(top: FrameType) -> Iterator[FrameType]:
    frame: FrameType | None = top
    while frame is not None:
        yield frame
        frame = frame.f_back


def _piece(data: Any, is_text: bool, *, whole: bool) -> TextMessage | BytesMessage:
    if is_text:
        text = data if isinstance(data, str) else data.decode()
        return TextMessage(data=text, frame_finished=whole, message_finished=whole)
    return BytesMessage(data=bytes(data), frame_finished=whole, message_finished=whole)
