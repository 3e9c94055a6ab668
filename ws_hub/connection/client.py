"""One connected client: its reader thread, its callbacks, and the methods of the hub.

Threads of a client::

    reader   ws-hub:reader:<id>   runs `run`: opened → on_connect → messages → on_disconnect.
                                  It alone joins the writer and closes the socket. A request
                                  thread, where the connection was not adopted (TLS in the
                                  server).
    writer   ws-hub:writer:<id>   runs `Sender.run`, from the first send that did not fit.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from .. import threads
from ..access.authenticators import AuthResult
from ..access.quotas import Account, Flood, PendingCharges
from ..config import HubConfig
from ..errors import CloseCode, ConnectionClosed, HubFull, HubNotRunning, SendTimeout, excerpt
from ..log import get_logger
from ..protocol.frames import close_frame, text_frame
from ..protocol.handshake import Answer
from ..protocol.message import Message, encode
from ..protocol.names import process_rule
from ..protocol.publication import Batch, Publication, compress
from ..reentrant import Event
from .outbox import Outbox, Room
from .receiver import receive
from .sender import Sender
from .transport import Transport

__all__ = ["Client", "Hooks"]

logger = get_logger(__name__)


class Subscriptions(Protocol):
    """The part of the channel map that a client uses."""

    def of(self, subscriber: Client) -> list[str]:
        """Return the channels of a client, oldest first. Any thread."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """The functions of the hub that a client calls, on its reader thread unless noted.

    Args:
        opened: asks for the client's admission; False when it was refused at once.
        admitted: waits for the decision and returns it.
        received: called with each whole message, text or binary.
        gone: removes the client from the hub; waits for that if asked to.
        finished: called last; the thread ends after it.
        call: calls a user's callback and handles its exceptions.
        closing: starts the `close_timeout` of the peer. Any thread.
        count: counts an event by its name, once or a given number of times. Any thread.
        start: starts a thread soon; see `Sender`. Any thread; does not wait.
        later: has a function called on the hub thread; raises HubFull. Any thread; does not
            wait.
        crowded: called with a client's number when its outbox becomes crowded, and when it is
            no longer. Any thread, under the lock of the client's transport.
    """

    opened: Callable[[Client], bool]
    admitted: Callable[[Client], bool]
    received: Callable[[Client, str | bytes], None]
    gone: Callable[[Client, bool], None]
    finished: Callable[[Client], None]
    call: Callable[..., Any]
    closing: Callable[[Client], None]
    count: Callable[..., None]
    start: Callable[..., threads.Later | None]
    later: Callable[[Callable[[], object]], None]
    crowded: Callable[[int, bool], None] = lambda number, crowded: None


class Client:
    """One connected client. Made by the hub; passed to every callback.

    Attributes:
        id: a number for logs and thread names; unique in the process, not a secret.
        remote_address: the peer's address, as the server reports it.
        connected_at: POSIX seconds.
        user_id: the id of the authenticated user, else None.
        claims: more facts about the user; read-only at every depth.
        expires_at: POSIX seconds at which the authentication expires and the connection is
            closed; None for never.
        state: a dict for the application's own data about this client.
        compression: whether permessage-deflate is used (RFC 7692).
        direct: the direct path to its socket, which most deliveries take.
        replayable: whether history can be replayed to it.
        last_error: the last error of this connection; "" for none.
    """

    __slots__ = (
        "__weakref__", "_accepted", "_channels", "_config", "_hooks", "_pending", "_refused",
        "_sender", "_thread", "_transport", "account", "admitted", "claims", "compression",
        "connected_at", "direct", "expires_at", "id", "last_error", "left", "mark", "network",
        "payer", "remote_address", "settled", "state", "user_id", "verify",
    )  # fmt: skip
    replayable = True

    def __init__(
        self,
        number: int,
        transport: Transport,
        config: HubConfig,
        hooks: Hooks,
        channels: Subscriptions,
        *,
        remote_address: str = "",
        greeting: bytes = b"",
    ) -> None:
        self.id = number
        self.remote_address = remote_address
        self.connected_at = time.time()
        self.user_id: str | None = None
        self.claims: Mapping[str, Any] = MappingProxyType({})
        self.expires_at: float | None = None
        # From its Entry; set before it starts, then owned by its reader. While `verify` is set,
        # the client is not authenticated yet.
        self.verify: Callable[[str], AuthResult] | None = None
        self.mark = 0
        self.network = ""  # key of the limit of connections from one address
        self.payer = ""  # key of the account that it is charged to; see `quotas`
        # Written by its reader: when it connects, authenticates, and disconnects.
        self.account: Account | None = None
        self._pending = PendingCharges(config)  # owned by the reader
        self.state: dict[str, Any] = {}
        self.last_error = ""  # written by the reader thread only
        self._refused = 0  # written by the hub thread only
        self.admitted = False  # written by the hub thread, before it sets `settled`
        # guards: nothing. Set by the hub thread when it has registered, refused, or unregistered
        # this client; waited for by the reader thread.
        self.settled = Event()
        self.left = False  # written by the reader thread, before it tells the hub thread
        self._config = config
        self._hooks = hooks
        self._channels = channels
        self._transport = transport
        # Whether its handshake was answered elsewhere: then a refusal is a Close frame.
        self._accepted = not greeting
        self._thread: threading.Thread | threads.Visit | None = None
        outbox = Outbox(config.outbox_messages, config.outbox_bytes)
        if greeting:
            outbox.begin(greeting, 0, 0)
        self._sender = Sender(
            transport,
            outbox,
            write_timeout=config.write_timeout,
            close_timeout=config.close_timeout,
            start=functools.partial(hooks.start, f"ws-hub:writer:{number}"),
            crowded=functools.partial(hooks.crowded, number),
        )
        self.direct = transport.direct
        self.compression = transport.compression
        threads.forget_after_fork(self)

    def __repr__(self) -> str:
        return f"<Client {self.id} {excerpt(self.remote_address)}>"

    # --- any thread ------------------------------------------------------------------------

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until the outbox is at most half full; False after `timeout` seconds.

        True at once when the connection has ended.

        Threads: any; blocks at most `timeout`.
        """
        return self._sender.wait_for_room(min(timeout, threading.TIMEOUT_MAX / 2))

    def keep_pace(self, timeout: float) -> None:
        """Wait while the outbox is more than half full and the client reads well.

        Well is `pace_bytes` a second; see HubConfig. Waits at most `timeout` seconds.

        Threads: any; blocks at most `timeout`.
        """
        if self._config.pace_bytes is not None:
            account, began = self.account, time.monotonic()
            at_once = account is not None and account.has_vain_waits(began)
            in_vain = self._sender.keep_pace(self._config.pace_bytes, timeout, at_once=at_once)
            if in_vain and account is not None:
                now = time.monotonic()
                account.charge_vain_wait(now - began, now)

    def send(self, message: Message, timeout: float | None = None) -> None:
        """Send a message to this client alone, waiting while its outbox is full.

        Messages of one thread arrive in order. Returns when the message is in the socket or the
        outbox, not when the peer has received it. Raises SendTimeout after `timeout` seconds
        (None: waits until the write timeout ends the connection), ConnectionClosed when the
        connection has ended, MessageEncodeError for a message without a JSON form.

        Within another call for this client, as from a signal handler or a finaliser, the hub
        thread sends it soon after. If the outbox is full then, the message is dropped and counted.

        Threads: any; blocks at most `timeout`, and never within another call of the hub.
        """
        frame = self._frame(message)
        if self.direct.lock.locked():
            self._run_on_hub_thread(functools.partial(self._offer_later, frame))
            return
        try:
            sent = self._sender.put(
                frame, threading.TIMEOUT_MAX / 2 if timeout is None else timeout
            )
        except SendTimeout as error:
            raise SendTimeout(f"send to {self!r}: {error}") from None
        if not sent:
            raise ConnectionClosed(*(self._sender.cause or (CloseCode.ABNORMAL, "connection lost")))

    def _run_on_hub_thread(self, call: Callable[[], object]) -> None:
        try:
            self._hooks.later(call)
        except HubFull as error:
            raise SendTimeout(f"call for {self!r} within another call for it: {error}") from None
        except HubNotRunning as error:
            raise ConnectionClosed(CloseCode.GOING_AWAY, str(error)) from None

    def _offer_later(self, frame: bytes) -> None:
        if not self._sender.offer(frame, 1):
            self._refused += 1
            self._hooks.count("dropped")

    def _frame(self, message: Message) -> bytes:
        text = encode(message, time.time(), process_rule(self._config.channel_name))
        frame = text_frame(text)
        packs = self.compression and self._config.compresses(text)
        return compress(text, frame) if packs else frame

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection: queued messages are sent, then the closing handshake begins.

        Idempotent; the first code counts. The peer has `close_timeout` seconds to answer. Raises
        ValueError for a code that must not be sent (RFC 6455 section 7.4). Within another call
        for this client, as from a signal handler, the hub thread closes it soon after: then
        SendTimeout says that the hub's queue is full, ConnectionClosed that the hub has stopped.

        Threads: any, callbacks and signal handlers included; does not wait.
        """
        if self.direct.lock.locked():  # within another call for this client
            close_frame(code, reason)  # raises ValueError here, not on the hub thread
            self._run_on_hub_thread(functools.partial(self.close, code, reason))
            return
        if self._sender.finish(code, reason):
            self._hooks.closing(self)

    def expire(self) -> None:
        """Cut the connection if it is closing and the peer has not answered within its time.

        Threads: any; does not wait.
        """
        self._sender.expire()

    def subscriptions(self) -> list[str]:
        """Return the channels that this client is subscribed to, oldest first.

        Threads: any.
        """
        return self._channels.of(self)

    @property
    def waiting(self) -> tuple[int, int]:
        """The number of messages, and of bytes, in the outbox.

        Threads: any.
        """
        return self._sender.waiting

    def charge_bytes(self, size: int) -> float:
        """Charge bytes that are kept or sent at this client's request.

        Returns for how many seconds it must wait before it gets more; 0.0 for not at all.

        Threads: any; never waits.
        """
        account = self.account
        return 0.0 if account is None else account.charge_bytes(size, time.monotonic())

    def charge_processing(self, seconds: float) -> None:
        """Charge seconds of processor time that another thread than its reader spent for it.

        Threads: any; never waits.
        """
        account = self.account
        if account is not None:
            account.charge_processing(seconds, time.monotonic())

    @property
    def dropped(self) -> int:
        """The number of messages that it did not get: its outbox was full, or was discarded.

        Threads: any.
        """
        return self._refused + self._sender.dropped

    def abort(self) -> None:
        """Cut the connection without a closing handshake.

        Threads: any; does not wait.
        """
        self._sender.end()
        self._transport.shutdown()

    def start(self) -> None:
        """Start the reader thread. Raises RuntimeError when the system has no more threads.

        Threads: the thread that made the client; does not wait.
        """
        self._thread = threads.start(f"ws-hub:reader:{self.id}", self.run)

    def join(self, timeout: float) -> bool:
        """Wait until the reader thread has ended; return whether it has.

        Threads: any; at most `timeout` seconds.
        """
        return threads.join(self._thread, timeout)

    def discard(self) -> None:
        """Close the socket of a client that could not be started.

        Threads: the thread that made the client.
        """
        self._sender.end()
        self._transport.close()

    def forget(self) -> None:
        """Close the descriptor alone, in a forked child: the connection is the parent's.

        Threads: the only one of a forked child.
        """
        self._sender.forget()

    # --- hub thread ------------------------------------------------------------------------

    def begin_locked(self, batch: Batch, sent: int) -> Sequence[Publication]:
        """Queue the rest of a delivery for the writer; return the publications that do not fit.

        Threads: the hub's, under the lock of `direct`; never waits.
        """
        assert self.direct.lock.locked()
        return self._refused_part(batch, self._sender.begin_locked(batch.frames, batch.each, sent))

    def deliver(self, batch: Batch) -> Sequence[Publication]:
        """Send or queue publications not sent directly; return those that do not fit.

        Threads: the hub's; never waits.
        """
        return self._refused_part(batch, self._sender.deliver(batch.frames, batch.each))

    def _refused_part(self, batch: Batch, kept: int) -> Sequence[Publication]:
        if kept == batch.messages:
            return ()
        self._refused += batch.messages - kept
        return batch.publications[kept:]

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        """Send or queue frames of the hub's own (ack, replay, notice); see Sender.offer.

        Threads: the hub's; never waits.
        """
        return self._sender.offer(frames, messages, beyond=beyond)

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        """Send a piece of a replay, if nothing waits; see Sender.offer_piece.

        Threads: the hub's; never waits.
        """
        return self._sender.offer_piece(frames, messages, drained)

    def skip(self, messages: int) -> None:
        """Count messages as dropped that a replay came too late for.

        Threads: the hub's; never waits.
        """
        self._refused += messages

    def fileno(self) -> int:
        """Return the descriptor of its socket, to wait for room; -1 once it is closed.

        Threads: any; does not wait.
        """
        return self._transport.fileno()

    def tell(self, message: Message) -> None:
        """Send a message of the hub's own, in order with the publications.

        Threads: the hub's; never waits.
        """
        if not self._sender.offer(text_frame(encode(message, time.time())), 1, beyond=True):
            self.evict("answers are not read")

    def ping(self) -> None:
        """Send a ping ahead of the queued messages.

        A client may need minutes to read a backlog; its pongs are its only sign of life then.

        Threads: the hub's; never waits.
        """
        self._sender.ping()

    def evict(self, reason: str) -> None:
        """Close the connection of a client that does not read, dropping its queued messages.

        Threads: the hub's, and the client's reader; never waits.
        """
        if self._sender.finish(CloseCode.TRY_AGAIN, reason, now=True):
            logger.warning(
                "%r is disconnected: %s; %d messages are lost", self, reason, self.dropped
            )
            self._hooks.count("slow_disconnects")
            self._hooks.closing(self)

    def welcome(self) -> None:
        """Send the accepting answer of the handshake: the client is registered.

        Threads: the hub's; never waits.
        """
        self._sender.greet()

    def refuse(self, answer: Answer) -> None:
        """Answer the handshake with a refusal, and end the connection.

        A handshake that was answered elsewhere is closed with the code of that refusal.

        Threads: the hub's, and the client's reader; waits at most a tenth of a second, while the
        reader is inside TLS.
        """
        if self._accepted:
            self.close(answer.close_code, answer.text)
            return
        with self._transport.lock, contextlib.suppress(OSError):
            self.direct.send(answer.to_bytes(), patience=0.1)
        self.abort()

    def identify(self, result: AuthResult) -> None:
        """Set user, claims and expiry from an authenticator's result.

        Threads: the thread that made the client, before it starts; then its reader.
        """
        self.user_id, self.claims = result.user_id, result.claims
        self.expires_at = result.expires_at

    # --- reader thread ---------------------------------------------------------------------

    def reply(self, message: Message) -> None:
        """Answer the peer; while its outbox is full, nothing more is read from it.

        A peer that sends requests and does not read the answers is disconnected after the write
        timeout.

        Threads: the client's reader; waits at most the write timeout.
        """
        frame = self._frame(message)
        self._pending.add_bytes(len(frame))
        try:
            self._sender.put(frame, self._config.write_timeout)
        except SendTimeout:
            self.evict("answers are not read")

    def owe(self, size: int) -> None:
        """Add bytes that are kept or sent at this client's request; charged after its messages.

        Threads: the client's reader; does not wait.
        """
        self._pending.add_bytes(size)

    def _charge(self, now: float, seconds: float, messages: int, controls: int) -> float | Flood:
        account = self.account
        if not self._pending.add(seconds, messages, controls) or account is None:
            return 0.0
        return self._pending.settle(account, now)

    def occupy(self) -> None:
        """Run the client on the calling thread, which `join` then waits for.

        Threads: a thread without other work; blocks until the connection has ended.
        """
        self._thread = threading.current_thread()
        self._thread.name = f"ws-hub:reader:{self.id}"
        self.run()

    def visit(self) -> None:
        """Live on the calling thread, which goes on afterwards: `join` waits for that.

        Threads: the request thread of the connection; blocks.
        """
        self._thread = visit = threads.Visit()
        try:
            self.run()
        finally:
            visit.end()

    def run(self) -> None:
        """Run the client, from registration to the last callback.

        Threads: the client's reader, which the calling thread becomes; blocks.
        """
        hooks = self._hooks
        code, reason = CloseCode.ABNORMAL.value, "refused"
        opened = False
        try:
            opened = hooks.opened(self)
            if opened and (self.verify is not None or self._config.on_connect is None):
                code, reason = self._receive()
            elif opened and hooks.admitted(self):
                self.begin()
                code, reason = self._receive()
            if self._accepted and not self.admitted and self.verify is None:
                self._farewell()
        finally:
            self._sender.end()
            self._transport.shutdown()
            self._sender.join(self._config.write_timeout)
            self._transport.close()
            self._hooks.count("dropped", self._sender.dropped)
            tells = self._config.on_disconnect is not None and opened and self._was_admitted()
            hooks.gone(self, tells)
            if tells:
                # A plain int: the repr of the parser's enumeration differs between Python
                # versions.
                hooks.call(self._config.on_disconnect, self, int(code), reason, client=self)
            hooks.finished(self)

    def _farewell(self) -> None:
        """Have the peer of a connection that was not taken in read why."""
        self.close(CloseCode.TRY_AGAIN, "the hub takes no more")  # unless it is closed already
        self._sender.drain()
        self._transport.linger(self._config.close_timeout)

    def begin(self) -> None:
        """Run on_connect: the client is registered.

        Threads: the client's reader; blocks as long as the callback does.
        """
        if self._config.on_connect is not None:
            self._hooks.call(self._config.on_connect, self, client=self)

    def _was_admitted(self) -> bool:
        """Return whether the hub admitted it, once decided; False while unauthenticated."""
        return self.admitted or (self.verify is None and self._hooks.admitted(self))

    def _receive(self) -> tuple[int, str]:
        """Handle input until the connection ends; return its close code and reason."""
        end = receive(
            self._transport,
            self._sender,
            self._config,
            ready=lambda: self.verify is not None or self._was_admitted(),
            received=functools.partial(self._hooks.received, self),
            charge=self._charge,
            count=self._hooks.count,
        )
        if self.account is not None:
            self._pending.settle(
                self.account, time.monotonic()
            )  # a reconnect leaves nothing unpaid
        self.last_error = end.fault or self.last_error
        code, reason = self._sender.verdict(end.code, end.reason)
        if self._sender.stalled:
            self._hooks.count("write_timeouts")
            logger.warning(
                "%r is disconnected: %s; %d messages are lost", self, reason, self.dropped
            )
        return code, reason
