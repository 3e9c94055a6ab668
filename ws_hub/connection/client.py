"""One connection as the hub sees it: its reader, its writer, its callbacks once each.

Must not know who else is connected, or what messages mean.

Threads of a client::

    reader   ws-hub:reader:<id>   runs `run`: opened → on_connect → messages → on_disconnect.
                                  It alone joins the writer and closes the socket. A request
                                  thread, where there was no adopting (TLS in the server).
    writer   ws-hub:writer:<id>   runs `Sender.run`: what did not fit at once, from then on.
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
    """What a client needs of the map of subscriptions."""

    def of(self, subscriber: Client) -> list[str]:
        """Return the channels of a client, oldest first. Any thread."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """How a client speaks upward, on its reader thread where nothing else is said.

    Args:
        opened: asks for the client to be admitted; False when it was refused at once.
        admitted: waits for the answer, and says what it is.
        received: gets each whole message, text or binary.
        gone: takes the client out of the hub; waits for that if asked to.
        finished: the last word; the thread ends after it.
        call: calls a user's callback and deals with what it raises.
        closing: notes that the peer now has `close_timeout` seconds. Any thread.
        count: counts something, by its name; once, or as often as it is told. Any thread.
        start: starts a thread soon; see `Sender`. Any thread; does not wait.
        later: has something called on the hub thread; raises HubFull. Any thread; does
            not wait.
        crowded: notes, by a client's number, that publishers wait for it, or no longer. Any
            thread, under the lock of its transport.
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
    """One connected peer. Made by the hub; handed to every callback.

    Attributes:
        id: a number for logs and thread names; unique in the process, not a secret.
        remote_address: the peer's address, as the server gave it.
        connected_at: POSIX seconds.
        user_id: who it is, once that is known, else None.
        claims: what else is known of the user; read-only all the way down.
        expires_at: POSIX seconds at which that ends, and the connection with it; None
            for never.
        state: the application's own data about this client.
        compression: whether permessage-deflate was agreed on (RFC 7692).
        direct: the straight way to its socket, which most deliveries take.
        replayable: that kept messages can be sent to it.
        last_error: what last went wrong on this connection; "" for nothing.
    """

    __slots__ = (
        "__weakref__", "_channels", "_config", "_hooks", "_pending", "_refused", "_sender",
        "_thread", "_transport", "account", "admitted", "claims", "compression",
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
        # Of its entry; set before it starts, then its reader's. While `verify` is there, it
        # waits in the lobby.
        self.verify: Callable[[str], AuthResult] | None = None
        self.mark = 0
        self.network = ""  # what it is counted by among those from one address
        self.payer = ""  # whose account it is charged to; see `budget`
        # Written by its reader, when it comes, says who it is, and goes.
        self.account: Account | None = None
        self._pending = PendingCharges(config)  # of the reader
        self.state: dict[str, Any] = {}
        self.last_error = ""  # written by the reader thread only
        self._refused = 0  # written by the hub thread only
        self.admitted = False  # written by the hub thread, before it sets:
        # guards: nothing. Set by the hub thread when it has registered, refused, or
        # unregistered this client; waited for by the reader thread.
        self.settled = Event()
        self.left = False  # written by the reader thread, before the hub thread hears of it
        self._config = config
        self._hooks = hooks
        self._channels = channels
        self._transport = transport
        self._thread: threading.Thread | None = None
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
        """Wait until its outbox is at most half full; False after `timeout` seconds.

        True at once when the connection is over: nobody is to be waited for.

        Threads: any; blocks at most `timeout`.
        """
        return self._sender.wait_for_room(min(timeout, threading.TIMEOUT_MAX / 2))

    def keep_pace(self, timeout: float) -> None:
        """Wait while its outbox is more than half full, if it reads well.

        That is, `pace_bytes` a second. See HubConfig.

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

        In order with everything else that the same thread sends to it. Returns when
        the message is in the socket or the outbox, not when the peer has it. Raises
        SendTimeout after `timeout` seconds (None: when the write timeout has ended the
        connection), ConnectionClosed when it is over, MessageEncodeError.

        Within another call for this client, as from a signal handler or a finaliser, it is
        sent by the hub thread, soon after; then it is lost when the outbox is full by then,
        which is counted.

        Threads: any; blocks at most `timeout`, and never within another call of the hub.
        """
        frame = self._frame(message)
        if self.direct.lock.locked():
            self._later(functools.partial(self._offer_later, frame))
            return
        try:
            sent = self._sender.put(
                frame, threading.TIMEOUT_MAX / 2 if timeout is None else timeout
            )
        except SendTimeout as error:
            raise SendTimeout(f"send to {self!r}: {error}") from None
        if not sent:
            raise ConnectionClosed(*(self._sender.cause or (CloseCode.ABNORMAL, "gone")))

    def _later(self, call: Callable[[], object]) -> None:
        try:
            self._hooks.later(call)
        except HubFull as error:
            raise SendTimeout(f"within another call for {self!r}: {error}") from None
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
        """Close the connection: what is queued, then the closing handshake.

        Idempotent; the first code counts. The peer has `close_timeout` seconds.
        Raises ValueError for a code that must not be sent (RFC 6455 section 7.4).

        Threads: any, callbacks and signal handlers included; does not wait.
        """
        if self.direct.lock.locked():  # within another call for this client
            close_frame(code, reason)  # raises what it would there
            self._later(functools.partial(self.close, code, reason))
            return
        if self._sender.finish(code, reason):
            self._hooks.closing(self)

    def expire(self) -> None:
        """Cut the connection if it is closing and the peer has had its time to answer.

        Threads: any; does not wait.
        """
        self._sender.expire()

    def subscriptions(self) -> list[str]:
        """Return the channels that this client listens to, oldest first.

        Threads: any.
        """
        return self._channels.of(self)

    @property
    def waiting(self) -> tuple[int, int]:
        """How many messages and how many bytes wait in the outbox.

        Threads: any.
        """
        return self._sender.waiting

    def charge_bytes(self, size: int) -> float:
        """Charge bytes that are kept, or sent, because this client asked for them.

        Returns for how many seconds it must now wait for more, 0.0 for not at all.

        Threads: any; never waits.
        """
        account = self.account
        return 0.0 if account is None else account.charge_bytes(size, time.monotonic())

    def charge_processing(self, seconds: float) -> None:
        """Charge processor time that another thread than its reader has spent for it.

        Threads: any; never waits.
        """
        account = self.account
        if account is not None:
            account.charge_processing(seconds, time.monotonic())

    @property
    def dropped(self) -> int:
        """Messages that it did not get: its outbox was full, or was thrown away.

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
        """Start the reader thread. Raises RuntimeError when the system has no more.

        Threads: the one that made the client; does not wait.
        """
        self._thread = threads.start(f"ws-hub:reader:{self.id}", self.run)

    def join(self, timeout: float) -> bool:
        """Wait until the reader thread has ended; say whether it has.

        Threads: any; at most `timeout` seconds.
        """
        return threads.join(self._thread, timeout)

    def discard(self) -> None:
        """Close the socket of a client that could not be started.

        Threads: the one that made the client.
        """
        self._sender.end()
        self._transport.close()

    def forget(self) -> None:
        """Give up the descriptor alone, in a forked child: the connection is the parent's.

        Threads: the only one of a forked child.
        """
        self._sender.forget()

    # --- hub thread ------------------------------------------------------------------------

    def begin_locked(self, batch: Batch, sent: int) -> Sequence[Publication]:
        """Leave the rest of a delivery to the writer; return what there is no room for.

        Threads: the hub's, under the lock of `direct`; never waits.
        """
        assert self.direct.lock.locked()
        return self._rest(batch, self._sender.begin_locked(batch.frames, batch.each, sent))

    def deliver(self, batch: Batch) -> Sequence[Publication]:
        """Send what did not go straight; return what there is no room for.

        Threads: the hub's; never waits.
        """
        return self._rest(batch, self._sender.deliver(batch.frames, batch.each))

    def _rest(self, batch: Batch, kept: int) -> Sequence[Publication]:
        if kept == batch.messages:
            return ()
        self._refused += batch.messages - kept
        return batch.publications[kept:]

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        """Send frames of the hub's own (an ack, a replay, a notice); see Sender.offer.

        Threads: the hub's; never waits.
        """
        return self._sender.offer(frames, messages, beyond=beyond)

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        """Send a piece of a replay, if nothing waits; see Sender.offer_piece.

        Threads: the hub's; never waits.
        """
        return self._sender.offer_piece(frames, messages, drained)

    def skip(self, messages: int) -> None:
        """Take note that it does not get so many messages: a replay came too late for them.

        Threads: the hub's; never waits.
        """
        self._refused += messages

    def fileno(self) -> int:
        """Return the descriptor of its socket, to wait for room; -1 once that is closed.

        Threads: any; does not wait.
        """
        return self._transport.fileno()

    def tell(self, message: Message) -> None:
        """Send a message of the hub's own, at its place among the publications.

        Threads: the hub's; never waits.
        """
        if not self._sender.offer(text_frame(encode(message, time.time())), 1, beyond=True):
            self.evict("answers are not read")

    def ping(self) -> None:
        """Ask for a sign of life, ahead of what waits: who takes minutes to read a backlog
        has nothing to say but its pongs.

        Threads: the hub's; never waits.
        """
        self._sender.ping()

    def evict(self, reason: str) -> None:
        """Close without sending what waits: this client does not read.

        Threads: the hub's, and the client's reader; never waits.
        """
        if self._sender.finish(CloseCode.TRY_AGAIN, reason, now=True):
            logger.warning(
                "%r is disconnected: %s; %d messages are lost", self, reason, self.dropped
            )
            self._hooks.count("slow_disconnects")
            self._hooks.closing(self)

    def welcome(self) -> None:
        """Answer the handshake: from now on it is a client of the hub.

        Threads: the hub's; never waits.
        """
        self._sender.greet()

    def refuse(self, answer: Answer) -> None:
        """Answer the handshake with a refusal, and end.

        Threads: the hub's, and the client's reader; waits at most a tenth of a second, for
        what the reader is about in TLS.
        """
        with self._transport.lock, contextlib.suppress(OSError):
            self.direct.send(answer.to_bytes(), patience=0.1)
        self.abort()

    def identify(self, result: AuthResult) -> None:
        """Take over who it is.

        Threads: the one that made the client, before it starts; then its reader.
        """
        self.user_id, self.claims = result.user_id, result.claims
        self.expires_at = result.expires_at

    # --- reader thread ---------------------------------------------------------------------

    def reply(self, message: Message) -> None:
        """Answer the peer; while its outbox is full, read nothing more from it.

        A peer that asks and does not read the answers is cut after the write timeout.

        Threads: the client's reader; waits at most the write timeout.
        """
        frame = self._frame(message)
        self._pending.add_bytes(len(frame))
        try:
            self._sender.put(frame, self._config.write_timeout)
        except SendTimeout:
            self.evict("answers are not read")

    def owe(self, size: int) -> None:
        """Note bytes that are kept or sent for this client, charged with what it sent.

        Threads: the client's reader; does not wait.
        """
        self._pending.add_bytes(size)

    def _charge(self, now: float, seconds: float, messages: int, controls: int) -> float | Flood:
        account = self.account
        if not self._pending.add(seconds, messages, controls) or account is None:
            return 0.0
        return self._pending.settle(account, now)

    def occupy(self) -> None:
        """Live on the calling thread and for as long as it does: `join` waits for its end.

        Threads: one that has nothing else to do any more; blocks.
        """
        self._thread = threading.current_thread()
        self._thread.name = f"ws-hub:reader:{self.id}"
        self.run()

    def run(self) -> None:
        """Live: from registration to the last callback.

        Threads: the client's reader, which this makes of the calling thread; blocks.
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
        finally:
            self._sender.end()
            self._transport.shutdown()
            self._sender.join(self._config.write_timeout)
            self._transport.close()
            self._hooks.count("dropped", self._sender.dropped)
            tells = self._config.on_disconnect is not None and opened and self._is_in()
            hooks.gone(self, tells)
            if tells:
                # A plain number: the parser's enumeration reads otherwise in each Python.
                hooks.call(self._config.on_disconnect, self, int(code), reason, client=self)
            hooks.finished(self)

    def begin(self) -> None:
        """Run on_connect: it is in the hub now.

        Threads: the client's reader; blocks as long as the callback does.
        """
        if self._config.on_connect is not None:
            self._hooks.call(self._config.on_connect, self, client=self)

    def _is_in(self) -> bool:
        """Say whether the hub took it in, once that is decided; not in the lobby, ever."""
        return self.admitted or (self.verify is None and self._hooks.admitted(self))

    def _receive(self) -> tuple[int, str]:
        """Deal with what comes in until the connection is over; return how it ended."""
        end = receive(
            self._transport,
            self._sender,
            self._config,
            ready=lambda: self.verify is not None or self._is_in(),
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
