"""One connection: its reader thread, its callbacks, and what the hub does with it.

Threads of a connection::

    reader   ws-hub:reader:<id>   whichever is at its `Reader`: on_connect → messages →
                                  on_disconnect. It alone joins the writer and closes the
                                  socket. A request thread, where the connection was not
                                  adopted (TLS in the server).
    writer   ws-hub:writer:<id>   runs `Sender.run`, from the first send that did not fit.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from .. import threads
from ..access.admission import Decision
from ..access.authenticators import AuthResult
from ..access.quotas import Account, Flood, PendingCharges
from ..config import HubConfig
from ..errors import (
    CloseCode,
    ConnectionClosed,
    HubFull,
    HubNotRunning,
    LimitExceeded,
    SendTimeout,
    excerpt,
)
from ..log import get_logger
from ..protocol.frames import close_frame, text_frame
from ..protocol.handshake import RETRY, Answer, refusal
from ..protocol.message import Encoder, Message, encode
from ..protocol.publication import Batch, Publication, compress
from .backlog import Drops, Explanation
from .calls import Calls
from .client import Client
from .membership import Membership, Stage
from .outbox import Outbox, Room
from .reader import Reader
from .readers import NO_THREAD, Readers
from .receiver import End, Receiver
from .sender import Sender
from .transport import Transport

__all__ = ["Connection", "ConnectionHub"]

logger = get_logger(__name__)

_MAX_INFO = 1024  # bytes of a client's info, as JSON
_TOO_LATE = refusal("503 Service Unavailable", "the hub is busy", RETRY)


class ConnectionHub(Protocol):
    """What a connection asks of the hub, on its reader thread unless noted."""

    @property
    def encoder(self) -> Encoder:
        """What encodes all messages of the application. Any thread."""

    def opened(self, connection: Connection) -> bool:
        """Ask for its admission; False when it was refused at once."""

    def admitted(self, connection: Connection, patience: float | None = None) -> bool:
        """Wait for the decision about its admission, and return it; late is refused."""

    def received(self, connection: Connection, data: str | bytes) -> None:
        """Take one whole message of its peer."""

    def left(self, connection: Connection, *, wait: bool) -> None:
        """Take it out of the hub, and wait for that if asked to."""

    def reader_ended(self, connection: Connection) -> None:
        """Note that its thread is at its end."""

    @property
    def readers(self) -> Readers | None:
        """The threads that read all connections; None where each has one of its own."""

    @property
    def on_connect(self) -> Sequence[Callable[..., Any]]:
        """The callbacks for a client that is admitted."""

    @property
    def on_disconnect(self) -> Sequence[Callable[..., Any]]:
        """The callbacks for a client that is gone."""

    def call(self, function: Callable[..., Any], *args: Any, connection: Connection) -> Any:
        """Call a user's callback; what it raises is logged."""

    def closing(self, connection: Connection) -> None:
        """Start the `close_timeout` of its peer. Any thread."""

    def subscriptions(self, connection: Connection) -> list[str]:
        """Return its channels, oldest first. Any thread."""

    def count(self, name: str, times: int = 1) -> None:
        """Count an event by its name in `HubStats`. Any thread."""

    def crowded(self, number: int, crowded: bool) -> None:
        """Note that the outbox of a connection is crowded, or is no longer.

        Any thread, under the lock of the connection's transport.
        """

    def start_later(
        self, name: str, target: Callable[[], None], step: Callable[[], bool]
    ) -> threads.DeferredThread | None:
        """Start a thread soon; see `Sender`. Any thread; does not wait."""

    def info_changed(self, connection: Connection) -> None:
        """Tell channels with presence that it has another info. Any thread; does not wait."""

    def call_later(self, call: Callable[[], object]) -> None:
        """Have a function called on the hub thread; raises HubFull. Any thread; does not wait."""


class Connection:
    """One connection of a hub.

    Args:
        number: its id.
        transport: its socket.
        config: the hub's settings.
        hub: the hub.
        remote_address: the peer's address, as the server reports it.
        greeting: the accepting answer of the handshake, sent once it is admitted; empty where
            the handshake was answered elsewhere: then a refusal is a Close frame.
        decision: the decision of admission.

    Attributes:
        membership: where it stands between its handshake and its end.
        user_id, claims, expires_at, last_error: see `Client`; written by its reader.
        info: what is told of it in channels with presence, as JSON; "" for nothing. Replaced whole.
        verify: authenticates the token of its first message; None when none is awaited.
        mark: the number of revocations before it was authenticated; see `Users`.
        network: the key of the limit of connections from one address.
        payer: the key of the account that it is charged to; see `quotas`.
        account: that account. Written by its reader: when it connects, authenticates, and
            disconnects.
        calls: the calls of callbacks that were queued for it; None before the first.
        is_pending: whether `on_connect` is to be called, by `settle`. Its reader's.
        busy: whether its reader is in a callback or a request, and will make those calls next.
            Written by its reader.
        published: what it, or callbacks for it, published lately; None for nothing. Its reader's;
            see `hub.pacing`.
        last_channels: what it was subscribed to when it left, for its last callbacks. Written
            under the lock of the subscriptions, then by its reader.
        transport: its socket.
        sender: what is sent by it.
        drops: what it did not get, by channel; None for nothing. Written by the hub thread.
        environ: what is kept of its handshake for the context of a framework, or None.
        direct: the direct path to its socket, which most deliveries take.
        compression: whether permessage-deflate is used (RFC 7692).
        replayable: whether history can be replayed to it.
    """

    __slots__ = (
        "__weakref__", "_accepted", "_authenticates", "_client", "_config", "_hub", "_opened",
        "_pending", "_refused", "_thread", "account", "busy", "calls", "claims", "compression",
        "connected_at", "direct", "drops", "environ", "expires_at", "id", "info", "is_pending",
        "last_channels", "last_error", "mark", "membership", "network", "payer", "published",
        "remote_address", "sender", "transport", "user_id", "verify",
    )  # fmt: skip
    replayable = True

    def __init__(
        self,
        number: int,
        transport: Transport,
        config: HubConfig,
        hub: ConnectionHub,
        *,
        remote_address: str = "",
        greeting: bytes = b"",
        decision: Decision | None = None,
    ) -> None:
        self.id = number
        self.remote_address = remote_address
        self.connected_at = time.time()
        self.membership = Membership()
        self.user_id: str | None = None
        self.claims: Mapping[str, Any] = MappingProxyType({})
        self.expires_at: float | None = None
        self.last_error = ""
        self.info = ""
        self.verify: Callable[[str], AuthResult] | None = None
        self.mark = 0
        self.network = ""
        self.payer = ""
        self.account: Account | None = None
        self.calls: Calls | None = None
        self.drops: Drops | None = None
        self.busy = True  # with being admitted, and then with on_connect
        self.last_channels: list[str] = []
        self.published: Any = None
        self.environ: Mapping[str, Any] | None = None
        if decision is not None:
            self.environ = decision.environ
            self.verify, self.mark = decision.verify, decision.mark
            self.network, self.payer = decision.network, decision.payer
            if decision.identity is not None:
                self.set_identity(decision.identity)
        self._pending = PendingCharges(config)  # owned by the reader
        self._refused = 0  # written by the hub thread only
        self._config = config
        self._hub = hub
        self.transport = transport
        self._accepted = not greeting
        self._client: weakref.ref[Client] | None = None
        self._thread: threading.Thread | threads.Visit | None = None
        self._opened = self._authenticates = self.is_pending = False  # written by its reader
        outbox = Outbox(config.outbox_messages, config.outbox_bytes, time.monotonic)
        if greeting:
            outbox.begin(greeting, 0, 0)
        self.sender = Sender(
            transport,
            outbox,
            write_timeout=config.write_timeout,
            close_timeout=config.close_timeout,
            start=functools.partial(hub.start_later, f"ws-hub:writer:{number}"),
            crowded=functools.partial(hub.crowded, number),
        )
        self.direct = transport.direct
        self.compression = transport.compression
        threads.forget_after_fork(self)

    def __repr__(self) -> str:  # in log lines and errors: what the application calls it
        return f"<Client {self.id} {excerpt(self.remote_address)}>"

    # --- any thread ------------------------------------------------------------------------

    @property
    def client(self) -> Client | None:
        """What the application sees of it, from before it is admitted to its last callback.

        Kept by its reader and by the application, not from here: a circle would keep each
        connection that has ended until the collector comes.
        """
        return None if self._client is None else self._client()

    def wait_for_room(self, timeout: float) -> bool:
        """Wait until the outbox is at most half full; see `Client.wait_for_room`."""
        return self.sender.wait_for_room(min(timeout, threading.TIMEOUT_MAX / 2))

    def keep_pace(self, timeout: float) -> None:
        """Wait while the outbox is more than half full and the client reads well.

        Well is `pace_bytes` a second; see HubConfig. Waits at most `timeout` seconds.

        Threads: any; blocks at most `timeout`.
        """
        if self._config.pace_bytes is not None:
            account, began = self.account, time.monotonic()
            at_once = account is not None and account.has_vain_waits(began)
            in_vain = self.sender.keep_pace(self._config.pace_bytes, timeout, at_once=at_once)
            if in_vain and account is not None:
                now = time.monotonic()
                account.charge_vain_wait(now - began, now)

    def send(self, message: Message, timeout: float | None = None) -> None:
        """Send a message to this client alone; see `Client.send`."""
        frame = self._frame(message)
        if self.direct.lock.locked():
            self._run_on_hub_thread(functools.partial(self._offer_later, frame))
            return
        try:
            sent = self.sender.put(frame, threading.TIMEOUT_MAX / 2 if timeout is None else timeout)
        except SendTimeout as error:
            raise SendTimeout(f"send to {self!r}: {error}") from None
        if not sent:
            raise ConnectionClosed(*(self.sender.cause or (CloseCode.ABNORMAL, "connection lost")))

    def _run_on_hub_thread(self, call: Callable[[], object]) -> None:
        try:
            self._hub.call_later(call)
        except HubFull as error:
            raise SendTimeout(
                f"{self!r} was called within another call for it, and must not wait: {error}"
            ) from None
        except HubNotRunning as error:
            raise ConnectionClosed(CloseCode.GOING_AWAY, str(error)) from None

    def _offer_later(self, frame: bytes) -> None:
        if not self.sender.offer(frame, 1):
            self._refused += 1
            self._hub.count("dropped")

    def _frame(self, message: Message) -> bytes:
        return self._frame_of(self._hub.encoder.encode(message, time.time()))

    def _frame_of(self, text: bytes) -> bytes:
        frame = text_frame(text)
        packs = self.compression and self._config.compresses(text)
        return compress(text, frame) if packs else frame

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection after its queued messages; see `Client.close`."""
        if self.direct.lock.locked():  # within another call for this client
            close_frame(code, reason)  # raises ValueError here, not on the hub thread
            self._run_on_hub_thread(functools.partial(self.close, code, reason))
            return
        if self.sender.finish(code, reason):
            self._hub.closing(self)

    def expire(self) -> None:
        """Cut the connection if it is closing and the peer has not answered within its time.

        Threads: any; does not wait.
        """
        self.sender.expire()

    def subscriptions(self) -> list[str]:
        """Return its channels, oldest first; see `Client.subscriptions`."""
        return self.channels() or list(self.last_channels)

    def channels(self) -> list[str]:
        """Return what it is subscribed to now, oldest first; nothing when it has left."""
        return self._hub.subscriptions(self)

    @property
    def waiting(self) -> tuple[int, int]:
        """The number of messages, and of bytes, in the outbox; see `Client.waiting`."""
        return self.sender.waiting

    def explain(self) -> Explanation:
        """Return why the client is behind; see `Client.explain`."""
        drops, cause = self.drops, self.sender.cause
        reason = "" if drops is None else drops.reason
        return Explanation(
            *self.sender.waiting,
            self.sender.oldest,
            MappingProxyType({}) if drops is None else drops.by_channel(),
            reason if cause is None else cause[1],
        )

    def set_info(self, info: object) -> None:
        """Set what is told of it in channels with presence; see `Client.set_info`."""
        text = "" if info is None else self._hub.encoder.data_text(info, "the info of a client")
        size = len(text.encode())
        if size > _MAX_INFO:
            raise LimitExceeded(
                f"cannot set the info of {self!r}: it has {size} bytes as JSON, and every member "
                f"of a channel with presence gets it; at most {_MAX_INFO} are allowed. Put an id "
                "or a URL there, and have clients ask for the rest"
            )
        if text != self.info:
            self.info = text
            self._hub.info_changed(self)

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
        """The number of messages that it did not get; see `Client.dropped`."""
        return self._refused + self.sender.dropped

    def abort(self) -> None:
        """Cut the connection without a closing handshake; see `Client.abort`."""
        self.sender.end()
        self.transport.shutdown()

    def start(self, before_wait: Callable[[], bool] | None = None) -> None:
        """Live on the hub's readers, or on a thread of its own.

        Raises RuntimeError when the system has no more threads.

        Threads: the thread that made the connection. Does not wait, unless `before_wait` is
        given: where something is to be waited for, that is called before, and returns False
        where the thread must not wait.
        """
        reader, readers, name = self._reader(), self._hub.readers, f"ws-hub:reader:{self.id}"
        if readers is None or not readers.takes(self.transport):
            self._thread = threads.begin(name, reader.run)
            return
        self._thread = reader.visit
        if before_wait is not None:
            threading.current_thread().name = name
            readers.adopt(reader, before_wait)
        elif not self.transport.is_settled:  # its first messages may take their time
            threads.begin(name, readers.adopt, reader)
        else:
            readers.begin()
            if reader.begin() and not readers.park(reader):
                self._keep_thread(name, reader, readers)

    @staticmethod
    def _keep_thread(name: str, reader: Reader, readers: Readers) -> None:
        try:
            threads.begin(name, readers.keep, reader)
        except RuntimeError as error:
            logger.warning("%r is disconnected: %s", reader.connection, error)
            reader.finish(NO_THREAD)

    def join(self, timeout: float) -> bool:
        """Wait until the reader thread has ended; return whether it has.

        Threads: any; at most `timeout` seconds.
        """
        return threads.join(self._thread, timeout)

    def discard(self) -> None:
        """Close the socket of a connection that could not be started.

        Threads: the thread that made the connection.
        """
        self.sender.end()
        self.transport.close()

    def forget(self) -> None:
        """Close the descriptor alone, in a forked child: the connection is the parent's.

        Threads: the only one of a forked child.
        """
        self.sender.forget()

    def queue_call(self, call: Callable[[], object]) -> bool:
        """Queue a call for `make_calls`; return whether another thread than its reader is needed.

        Threads: any, under the lock of the subscriptions; does not wait.
        """
        if self.calls is None:
            self.calls = Calls()
        self.calls.add(call)
        # Looked at after that: the reader makes the calls after it is not busy any more.
        return not self.busy

    def make_calls(self, *, wait: bool = False) -> None:
        """Make the calls that are queued, in order; see `Calls.run`.

        Threads: any that may run callbacks.
        """
        if self.calls is not None:
            self.calls.run(wait=wait)

    # --- hub thread ------------------------------------------------------------------------

    def begin_locked(self, batch: Batch, sent: int) -> Sequence[Publication]:
        """Queue the rest of a delivery for the writer; return the publications that do not fit.

        Threads: the hub's, under the lock of `direct`; never waits.
        """
        assert self.direct.lock.locked()
        return self._refused_part(batch, self.sender.begin_locked(batch.frames, batch.each, sent))

    def deliver(self, batch: Batch) -> Sequence[Publication]:
        """Send or queue publications not sent directly; return those that do not fit.

        While something waits in the outbox, what may wait outside of it does not fit.

        Threads: the hub's; never waits.
        """
        others, waiting = batch.parts()
        if not waiting or not self.sender.is_behind:
            return self._refused_part(batch, self.sender.deliver(batch.frames, batch.each))
        if others is None:
            return waiting
        kept = self.sender.deliver(others.frames, others.each)
        return [*self._refused_part(others, kept), *waiting]

    def _refused_part(self, batch: Batch, kept: int) -> Sequence[Publication]:
        if kept == batch.messages:
            return ()
        refused = batch.publications[kept:]
        self._refused += sum(not each.waits for each in refused)
        return refused

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        """Send or queue frames of the hub's own (ack, replay, notice); see Sender.offer.

        Threads: the hub's; never waits.
        """
        return self.sender.offer(frames, messages, beyond=beyond)

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        """Send a piece of a replay, if nothing waits; see Sender.offer_piece.

        Threads: the hub's; never waits.
        """
        return self.sender.offer_piece(frames, messages, drained)

    def note_drops(self, channel: str, messages: int, reason: str) -> None:
        """Note which messages it did not get, for `explain`.

        Threads: the hub's; never waits.
        """
        if self.drops is None:
            self.drops = Drops()
        self.drops.add(channel, messages, reason)

    def count_skipped(self, messages: int) -> None:
        """Count messages as dropped that a replay came too late for.

        Threads: the hub's; never waits.
        """
        self._refused += messages

    def fileno(self) -> int:
        """Return the descriptor of its socket, to wait for room; -1 once it is closed.

        Threads: any; does not wait.
        """
        return self.transport.fileno()

    def notify(self, message: Message) -> None:
        """Send a message of the hub's own, in order with the publications.

        Threads: the hub's; never waits.
        """
        if not self.sender.offer(text_frame(encode(message, time.time())), 1, beyond=True):
            self.evict("answers are not read")

    def ping(self) -> None:
        """Send a ping ahead of the queued messages.

        A client may need minutes to read a backlog; its pongs are its only sign of life then.

        Threads: the hub's; never waits.
        """
        self.sender.ping()

    def evict(self, reason: str) -> None:
        """Close the connection of a client that does not read, dropping its queued messages.

        Threads: the hub's, and its reader; never waits.
        """
        if self.sender.finish(CloseCode.TRY_AGAIN, reason, now=True):
            logger.warning(
                "%r is disconnected: %s; %d messages are lost", self, reason, self.dropped
            )
            self._hub.count("slow_disconnects")
            self._hub.closing(self)

    def decided(self) -> None:
        """Have its reader go on: it is admitted, or refused.

        Threads: the hub's; does not wait.
        """
        self.membership.settled.set()
        readers = self._hub.readers
        if readers is not None and self._hub.on_connect:
            readers.look(self.fileno())

    def accept(self) -> None:
        """Send the accepting answer of the handshake: the client is registered.

        Threads: the hub's; never waits.
        """
        self.sender.greet()

    def refuse(self, answer: Answer) -> None:
        """Answer the handshake with a refusal, and end the connection.

        A handshake that was answered elsewhere is closed with the code of that refusal.

        Threads: the hub's, and its reader; waits at most a tenth of a second, while the
        reader is inside TLS.
        """
        if self._accepted:
            self.close(answer.close_code, answer.text)
            return
        with self.transport.lock:  # for both: another refusal is not sent behind this one
            with contextlib.suppress(OSError):
                self.direct.send(answer.to_bytes(), patience=0.1)
            self.abort()

    def set_identity(self, result: AuthResult) -> None:
        """Set user, claims and expiry from an authenticator's result.

        Threads: the thread that made the connection, before it starts; then its reader.
        """
        self.user_id, self.claims = result.user_id, result.claims
        self.expires_at = result.expires_at

    # --- reader thread ---------------------------------------------------------------------

    def reply(self, message: Message) -> None:
        """Answer the peer; while its outbox is full, nothing more is read from it.

        A peer that sends requests and does not read the answers is disconnected after the write
        timeout.

        Threads: its reader; waits at most the write timeout.
        """
        self._answer(self._frame(message))

    def reply_with(self, message: Message, name: str, texts: Sequence[bytes]) -> None:
        """Answer the peer with encoded messages as a field of the data; as `reply` otherwise.

        Threads: its reader; waits at most the write timeout.
        """
        text = self._hub.encoder.encode_listing(message, name, texts, time.time())
        self._answer(self._frame_of(text))

    def _answer(self, frame: bytes) -> None:
        self._pending.add_bytes(len(frame))
        try:
            if not self.sender.offer(frame, 1):
                self.will_wait()
                self.sender.put(frame, self._config.write_timeout)
        except SendTimeout:
            self.evict("answers are not read")

    def charge_later(self, size: int) -> None:
        """Add bytes that are kept or sent at this client's request; charged after its messages.

        Threads: its reader; does not wait.
        """
        self._pending.add_bytes(size)

    def borrow_thread(self) -> None:
        """Live on the calling thread, which goes on afterwards: `join` waits for that.

        Threads: the request thread of the connection; blocks.
        """
        reader = self._reader()
        self._thread = reader.visit
        reader.run()

    def run(self) -> None:
        """Live on the calling thread, from registration to the last callback.

        Threads: its reader, which the calling thread becomes; blocks.
        """
        self._reader().run()

    def _reader(self) -> Reader:
        return Reader(self, self._config.pong_timeout, self._config.handshake_timeout)

    def receiver(self) -> Receiver:
        """Return what handles its input."""
        return Receiver(self.transport, self.sender, self._config, self)

    def new_client(self) -> Client:
        """Return what the application sees of it, which its reader keeps."""
        client = Client(self)
        self._client = weakref.ref(client)
        return client

    def enter(self) -> bool:
        """Ask for its admission; False when it was refused at once.

        Threads: its reader; does not wait.
        """
        hub = self._hub
        self._opened = hub.opened(self)
        self._authenticates = self.membership.stage is Stage.AUTHENTICATING
        self.is_pending = self._opened and not self._authenticates and bool(hub.on_connect)
        if self._opened and not self.is_pending:
            self.rest()
        return self._opened

    @property
    def is_decided(self) -> bool:
        """Whether the hub has admitted or refused it."""
        return self.membership.settled.is_set()

    def settle(self, patience: float) -> bool:
        """Call `on_connect` once it is admitted; False when it is refused, or that is late.

        Threads: its reader; waits for the callback, and at most `patience` seconds for the hub
        thread where its peer has sent something before it was answered.
        """
        self.is_pending = False
        if not self.is_decided:
            self.will_wait()
        if self._hub.admitted(self, patience):
            self.call_on_connect()
            return True
        return False

    def shut(self, end: End | None) -> tuple[int, str]:
        """End it; return its close code and reason. Nothing uses its socket afterwards.

        `end` is how its input has ended; None when there was none.

        Threads: its reader; blocks at most some timeouts, where the peer has to read a reason.
        """
        code, reason = CloseCode.ABNORMAL.value, "refused"
        try:
            if end is not None:
                code, reason = self._conclude(end)
            if not self._authenticates and not self.membership.admitted:
                self._say_why()
            return code, reason
        finally:
            self.sender.end()
            self.transport.shutdown()
            self.sender.join(self._config.write_timeout)

    def _conclude(self, end: End) -> tuple[int, str]:
        if self.account is not None:
            # A reconnect leaves nothing unpaid.
            self._pending.settle(self.account, time.monotonic())
        self.last_error = end.fault or self.last_error
        code, reason = self.sender.verdict(end.code, end.reason)
        if self.sender.stalled:
            self._hub.count("write_timeouts")
            logger.warning(
                "%r is disconnected: %s; %d messages are lost", self, reason, self.dropped
            )
        return code, reason

    def leave(self, client: Client | None, code: int, reason: str) -> None:
        """Close its socket, take it out of the hub, and call `on_disconnect`.

        Threads: its reader; where there is a callback, waits for the hub thread and for that.
        """
        hub = self._hub
        self.transport.close()
        hub.count("dropped", self.sender.dropped)
        on_disconnect = hub.on_disconnect
        tells = bool(on_disconnect) and self._opened and self._is_admitted()
        if tells:
            self.will_call()
        hub.left(self, wait=tells)
        self.make_calls(wait=True)  # for the subscriptions that have ended by that
        for callback in on_disconnect if tells else ():
            # A plain int: the repr of the parser's enumeration differs between Python versions.
            hub.call(callback, client, int(code), reason, connection=self)
        self.last_channels = []
        hub.reader_ended(self)

    def _say_why(self) -> None:
        """Have the peer of a connection that was not admitted read the reason."""
        if not self._accepted:
            self.refuse(_TOO_LATE)  # sends nothing when it was refused before
            return
        self.close(CloseCode.TRY_AGAIN, "the hub takes no more")  # unless it is closed already
        self.sender.drain()
        self.transport.linger(self._config.close_timeout)

    def call_on_connect(self) -> None:
        """Run on_connect: it is admitted.

        Threads: its reader; blocks as long as the callback does.
        """
        for callback in self._hub.on_connect:
            self._hub.call(callback, self.client, connection=self)
        self.rest()

    def rest(self) -> None:
        """Make the calls that were queued meanwhile: the reader is about to wait for its peer.

        Threads: its reader; blocks as long as the callbacks do.
        """
        self.busy = False
        if self.calls is not None:
            self.calls.run(wait=True)

    def _is_admitted(self) -> bool:
        """Return whether the hub admitted it, once that is decided; False while authenticating."""
        membership = self.membership
        return membership.admitted or (membership.stage is Stage.NEW and self._hub.admitted(self))

    # --- for its receiver; see `Peer` ------------------------------------------------------

    def is_ready(self) -> bool:
        """Return whether its messages are taken, once that is decided."""
        stage = self.membership.stage
        return stage is Stage.ADMITTED or stage is Stage.AUTHENTICATING or self._is_admitted()

    def take(self, data: str | bytes) -> None:
        """Take one whole message of its peer."""
        self._hub.received(self, data)

    def charge(self, now: float, seconds: float, messages: int, controls: int) -> float | Flood:
        """Charge its account; return for how many seconds its peer must pause."""
        account = self.account
        if not self._pending.add(seconds, messages, controls) or account is None:
            return 0.0
        return self._pending.settle(account, now)

    def count(self, name: str) -> None:
        """Count a limit that its peer has exceeded."""
        self._hub.count(name)

    def will_wait(self) -> None:
        """Have another thread read the other connections: its reader is about to wait."""
        if self._hub.readers is not None:
            self._hub.readers.before_wait()

    def will_call(self) -> None:
        """Do the same where callbacks have waited lately: what comes may wait as well."""
        if self._hub.readers is not None:
            self._hub.readers.before_call()
