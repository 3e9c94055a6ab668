"""Exchanges notices with the other processes: the thread of an open LocalBackplane.

Each process makes a connection to the socket of each other one, and sends on it; it receives
on those that it accepts. At its start it connects to all sockets in the directory. The first
frame of a connection says the name of the sender's own socket, and the receiver connects back
to that, so that all know each other without looking again. They look every five seconds, for
what has gone wrong meanwhile.

A process that only sends has no socket, and is told of nobody: it looks whenever it sends.

    any thread   tell() -> _told -> the thread "ws-hub:bus" -> Sending, one for each peer
    the thread   Receiving, one for each peer -> receiver.receive()

Of what nobody else wants, nothing is queued: see `interest`. A notice is numbered for each peer
among those that are for it, so that one that is left out is no loss.

Everything here belongs to the thread from its start to its end, but for the queues of what
was told and the wake-up, and the deadline, which is written once.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import selectors
import socket
import threading
import time
from collections import Counter

from .. import threads
from ..connection.fast_send import DirectSocket
from ..errors import ConfigError, excerpt
from ..log import get_logger
from ..reentrant import Event, Wakeup, nested
from .bus import Notice, NoticeKind, Receiver
from .interest import Audience, Interest
from .notices import MAX_TAIL_BYTES, Hello, Numbered, decode, frame
from .peers import Counts, Frame, Receiving, Sending
from .reception import Reception
from .socket_directory import SocketDirectory, new_name, peer_of
from .told import Told, ToldQueue

__all__ = ["LOOK_EVERY", "Exchange"]

logger = get_logger(__name__)

LOOK_EVERY = 5.0  # seconds between two looks at the directory
_LOOK_AFTER_END = 0.2  # seconds from the end of a peer's connection to that of its process
_OFFER_EVERY = 0.02  # seconds after which a notice that found no room is offered again
_PATIENCE = 0.5  # seconds of a start for those that are there to connect back
_GRACE = 1.0  # seconds for the thread to end after its time is over
_AFTER_FAULT = 0.1  # seconds of rest after an exception that nothing here expects
_MOST_TAKEN = 1000  # of what was told, until some of it is written
_MOST_WARNED = 1000  # processes that are remembered to have been warned of
_KEPT = Notice(NoticeKind.KEPT)
_ALONE = "alone"


class _Wake(Wakeup):
    """Wakes the thread out of its selector. `put` does not wait, nor let go of the GIL."""

    def __init__(self) -> None:
        self.receiver, self._sender = socket.socketpair()
        for end in (self.receiver, self._sender):
            end.setblocking(False)
        # Its lock guards `_is_open` and the descriptor; the last in the order.
        self._direct = DirectSocket(self._sender)
        self._is_open = True

    def put(self, item: None, block: bool = True, timeout: float | None = None) -> None:
        super().put(item)
        with self._direct.lock, contextlib.suppress(OSError):
            if self._is_open:  # otherwise the descriptor may be reused
                self._direct.send(b"\0")

    def clear(self) -> None:
        """Have the next signal wake the thread; to be called before the queues are emptied."""
        # In this order: a signal between the two lines leaves its byte, and wakes once too often.
        with contextlib.suppress(OSError):
            self.receiver.recv(4096)
        with contextlib.suppress(queue.Empty):
            while True:
                self.get_nowait()

    def close(self) -> None:
        """Close it; a signal has no effect any more."""
        with self._direct.lock:
            self.forget()

    def forget(self) -> None:
        """Close it in a forked child, where a thread that is gone may hold the lock."""
        self._is_open = False
        self._direct.forget()
        self.receiver.close()
        self._sender.close()


class Exchange:
    """One life of a LocalBackplane, from its `open` to its `close`.

    Args:
        directory: where the sockets are.
        receiver: gets the notices of others, on the thread; None to send alone.
        counts: what to count in.
        interest: what this process wants to be told; None for all.

    Raises ConfigError where there cannot be such sockets.
    """

    def __init__(
        self,
        directory: SocketDirectory,
        receiver: Receiver | None,
        counts: Counts,
        interest: Interest | None = None,
    ) -> None:
        self._directory = directory
        self._listens = receiver is not None
        self._reception = Reception(receiver, counts)
        self._counts = counts
        self._name = new_name()
        directory.check_name(self._name)
        self._wake = _Wake()
        self._told = ToldQueue(self._wake, MAX_TAIL_BYTES)
        self._deadline: float | None = None  # until when to write before the end
        # Whom to tell what; replaced whole by the thread, read by any.
        self._audience = Audience()
        self._interest = interest
        # Those that were there at the start and have yet to connect back. Filled by the thread
        # that starts, which waits for the event; emptied by the other one.
        self._awaited: set[str] = set()
        self._is_known = Event()
        self._thread: threading.Thread | None = None
        # The thread's own.
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._identity = (0, 0)  # of the listener's file
        self._sending: dict[str, Sending] = {}
        self._receiving: dict[Receiving, None] = {}  # in the order in which they are served
        self._number = 0  # of the last notice
        # How many of them were not for a peer, by its name, also when its connection has ended.
        self._left_out: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}  # last ones of peers whose connection has ended
        # A notice and its sender, refused by the receiver, which is offered it again.
        self._refused: tuple[Notice, str] | None = None
        self._next_offer = self._next_look = 0.0
        self._warned: set[object] = set()
        threads.forget_after_fork(self)

    # --- any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, connect to all that are there, and start the thread. Raises ConfigError.

        Waits, for a moment at most, until all of them tell this process what is published: a
        client that subscribes after that misses nothing.
        """
        try:
            self._directory.prepare()
            self._selector.register(self._wake.receiver, selectors.EVENT_READ)
            if self._listens:
                self._listen()
            self._connect_all()
            self._awaited = set(self._sending)
            self._next_look = time.monotonic() + LOOK_EVERY
            self._thread = threads.start("ws-hub:bus", self._run)
        except BaseException:
            self._release()
            raise
        if self._listens and self._awaited and not nested():
            self._is_known.wait(_PATIENCE)

    def tell(self, notice: Notice) -> None:
        """Have the thread tell the peers; never waits. Raises ValueError, see `encode`.

        Those that are known not to want it are left out.
        """
        if not self._listens or notice.kind is NoticeKind.DISCONNECT:
            self._told.put(notice)  # a process that has just begun may be reached by then
            return
        without = self._audience.uninterested(notice.topic)
        if without is not None:
            self._told.put(notice, without)

    def peers(self) -> int:
        """Return the number of other processes that are reached, or would be by what is sent."""
        audience = self._audience
        if audience or self._listens:
            return len(audience)
        return self._directory.listening()  # the thread has not looked since they began

    def others(self) -> frozenset[str]:
        """Return the names of the other processes that are reached."""
        return self._audience.names

    def dropped(self) -> int:
        """Return the number of lost notices that are not counted yet."""
        return self._told.dropped()

    def finish(self, timeout: float) -> None:
        """Write what was told, for so many seconds at most, and end the thread."""
        self._deadline = time.monotonic() + max(timeout, 0.0)
        self._wake.signal()
        if not nested():
            threads.join(self._thread, max(timeout, 0.0) + _GRACE)

    def forget(self) -> None:
        """Close the child's copies of all sockets, in a forked child."""
        # Not shut down, nor taken out of the selector: both would reach the parent.
        self._wake.forget()
        self._selector.close()
        self._audience = Audience()
        if self._interest is not None:
            self._interest.forget()
        if self._listener is not None:
            self._listener.close()
        for receiving in self._receiving:
            receiving.drop_descriptors()
        sockets = [peer.sock for peer in self._sending.values()]
        for sock in (*sockets, *[peer.sock for peer in self._receiving]):
            sock.close()

    # --- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            goes_on = True
            while goes_on:
                try:
                    goes_on = self._turn()
                except Exception:  # noqa: BLE001 - the peers must be served whatever comes
                    logger.exception("a turn of the backplane in %s failed", self._directory.path)
                    goes_on = self._deadline is None
                    time.sleep(_AFTER_FAULT)  # it may come at each turn
        finally:
            self._release()

    def _turn(self) -> bool:
        """Wait for something to do, and do it; False at the end."""
        for key, _ in self._selector.select(self._patience()):
            if key.data is not None:
                key.data()
        self._wake.clear()
        self._take_told()
        now = time.monotonic()
        if self._refused is not None and now >= self._next_offer:
            self._offer_again()
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            self._look()
        if self._deadline is None:
            return True
        is_done = not self._told and all([each.is_idle() for each in self._sending.values()])
        return not is_done and now < self._deadline

    def _patience(self) -> float:
        """Return how long there is nothing to do without an event."""
        if self._told:
            return 0.0
        until = self._next_look
        if self._refused is not None:
            until = min(until, self._next_offer)
        if self._deadline is not None:
            until = min(until, self._deadline)
        return max(until - time.monotonic(), 0.0)

    def _release(self) -> None:
        """Close everything and remove the socket's file."""
        self._wake.close()
        self._warn_of_unsent()
        for sending in list(self._sending.values()):
            self._end_sending(sending)
        for receiving in list(self._receiving):
            self._end_receiving(receiving)
        self._stop_listening()
        self._selector.close()
        if self._interest is not None:
            self._interest.close()

    def _warn_of_unsent(self) -> None:
        """Count and log what was told and is not sent, at the end."""
        waiting = {peer.name: count for peer in self._sending.values() if (count := peer.waiting())}
        untold = len(self._told) if self._sending else 0
        self._counts.lost += sum(waiting.values()) + untold
        if waiting or untold:
            logger.warning(
                "the backplane has ended before others had read what was published last: %d "
                "notices are lost to %s",
                sum(waiting.values()) + untold,
                ", ".join(waiting) or "all",
            )

    # Sending.

    def _take_told(self) -> None:
        if not self._listens and self._told:
            self._connect_all()  # nobody that is new could say so
        for _ in range(_MOST_TAKEN):
            told = self._told.take()
            if told is None:
                break
            is_kept = told.kind is NoticeKind.KEPT
            if not is_kept:
                self._number += told.stands_for
                self._warn_when_alone()
            self._left_out.update(dict.fromkeys(told.without, told.stands_for))
            self._add(told)
        for without in self._told.take_lost():
            self._number += 1
            self._counts.lost += 1
            self._left_out.update(without)
        for peer in list(self._sending.values()):
            if not peer.waits_for_room:
                self._write(peer)

    def _add(self, told: Told) -> None:
        """Have a notice wait for the peers that it is for."""
        is_kept, always = told.kind is NoticeKind.KEPT, told.kind is NoticeKind.DISCONNECT
        frames: dict[int, Frame] = {}
        for peer in self._sending.values():
            if peer.name in told.without:
                continue
            number = self._number_for(peer.name)
            if number not in frames:  # mostly it is the same for all
                data = frame(number, told.tail)
                frames[number] = Frame(data, number, told.stands_for, is_kept, always)
            peer.add(frames[number])

    def _number_for(self, name: str) -> int:
        """Return the number of the last notice, among those that are for a peer."""
        return self._number - self._left_out[name]

    def _warn_when_alone(self) -> None:
        """Warn that nobody hears what is sent, where that is all that this process is for."""
        if self._sending:
            self._warned.discard(_ALONE)
        elif not self._listens:
            self._warn(
                _ALONE,
                "no process of the application is reached in %s: what is published is lost, but "
                "for channels with history. Start the application, or name its directory",
                self._directory.path,
            )

    def _write(self, peer: Sending) -> None:
        try:
            is_idle = peer.write()
            if is_idle:
                peer.catch_up(self._number_for(peer.name))
                is_idle = peer.write()
        except OSError:
            self._end_sending(peer)
            return
        if peer.waits_for_room == is_idle:
            peer.waits_for_room = not is_idle
            events = selectors.EVENT_READ | (0 if is_idle else selectors.EVENT_WRITE)
            self._selector.modify(peer.sock, events, functools.partial(self._on_sending, peer))

    def _on_sending(self, peer: Sending) -> None:
        if self._sending.get(peer.name) is not peer:
            return  # ended by an event of the same turn
        if peer.has_ended():
            self._end_sending(peer)
        elif peer.waits_for_room:
            self._write(peer)

    def _connect(self, name: str) -> None:
        if name == self._name or name in self._sending:
            return
        sock = self._directory.connect(name)
        if sock is None:
            return
        table = -1 if self._interest is None else self._interest.share()
        peer = Sending(name, sock, self._name, self._number_for(name), self._counts, table)
        self._sending[name] = peer
        self._renew_audience()  # before it hears of this process, and may count on it
        self._selector.register(
            sock, selectors.EVENT_READ, functools.partial(self._on_sending, peer)
        )
        self._write(peer)

    def _connect_all(self) -> None:
        for name in self._directory.names():
            self._connect(name)

    def _end_sending(self, peer: Sending) -> None:
        self._sending.pop(peer.name, None)
        self._renew_audience()
        self._await_no_more(peer.name)
        self._shut(peer.sock)

    def _await_no_more(self, name: str) -> None:
        self._awaited.discard(name)
        if not self._awaited:
            self._is_known.set()

    def _renew_audience(self) -> None:
        """Note which others are reached, and what they want, as far as they have said so."""
        tables = {peer.name: peer.table for peer in self._receiving}
        self._audience = Audience([(name, tables.get(name)) for name in self._sending])

    def _shut(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)
        # A child that was forked while the socket was being made may have a copy of it, which
        # it does not know of, and which would keep the connection open.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    # Receiving.

    def _on_listener(self) -> None:
        while self._listener is not None:
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                # No descriptors, mostly. Until the next look: the event would come at once.
                self._selector.unregister(self._listener)
                self._warn("accept", "the backplane cannot accept a connection: %s", error)
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        pid, is_allowed = peer_of(sock)
        if not is_allowed:
            self._warn(pid, "the backplane refused process %d: it is of another user", pid)
            sock.close()
            return
        peer = Receiving(sock, pid)
        self._receiving[peer] = None
        if self._refused is None:
            self._listen_to(peer)
        else:
            self._connect_all()  # its hello is not read now; its socket is there

    def _listen_to(self, peer: Receiving) -> None:
        on_event = functools.partial(self._on_receiving, peer)
        self._selector.register(peer.sock, selectors.EVENT_READ, on_event)

    def _on_receiving(self, peer: Receiving) -> None:
        if peer not in self._receiving or self._refused is not None:
            return  # ended, or nothing is read any more, by an event of the same turn
        goes_on = peer.read()
        self._hand_on(peer)
        if not goes_on:
            self._end_receiving(peer)

    def _hand_on(self, peer: Receiving) -> None:
        """Take the frames that have arrived, while the receiver has room."""
        try:
            while self._refused is None:
                body = peer.frames.next()
                if body is None:
                    return
                said = decode(body)
                if isinstance(said, Hello):
                    self._greet(peer, said)
                else:
                    self._take(peer, said)
        except ValueError as error:
            self._warn(
                peer.name or peer.pid,
                "the backplane closed the connection of process %d: %s",
                peer.pid,
                excerpt(str(error), 300),
            )
            self._end_receiving(peer)

    def _greet(self, peer: Receiving, said: Hello) -> None:
        if said.name == self._name or peer.name not in ("", said.name):
            raise ValueError(f"not its name: {said.name}")
        if not peer.name:
            peer.name = said.name
            last = self._numbers.pop(said.name, None)
            peer.number = said.number if last is None else min(last, said.number)
            if last is not None:
                self._give(_KEPT, said.name)  # one may have been lost, which no number tells
            peer.take_table(said)
            self._connect(said.name)
            self._renew_audience()
            self._await_no_more(said.name)
        self._reception.missed(peer.advance(said.number, 0))

    def _take(self, peer: Receiving, said: Numbered) -> None:
        if not peer.name:
            raise ValueError("a notice before the hello")
        is_kept = said.notice is not None and said.notice.kind is NoticeKind.KEPT
        step = 0 if is_kept else 1 if said.notice is None else said.notice.stands_for
        self._reception.missed(peer.advance(said.number, step))
        if said.notice is not None:
            self._give(said.notice, peer.name)

    def _end_receiving(self, peer: Receiving) -> None:
        if peer in self._receiving:
            del self._receiving[peer]
            if peer.name:
                self._numbers[peer.name] = peer.number
                self._next_look = min(self._next_look, time.monotonic() + _LOOK_AFTER_END)
            peer.drop_descriptors()
            self._renew_audience()
            self._shut(peer.sock)

    # The receiver.

    def _give(self, notice: Notice, source: str) -> None:
        if self._reception.offer(notice, source):
            return
        self._refused = notice, source
        self._next_offer = time.monotonic() + _OFFER_EVERY
        for peer in self._receiving:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(peer.sock)

    def _offer_again(self) -> None:
        assert self._refused is not None
        if not self._reception.offer(*self._refused):
            self._next_offer = time.monotonic() + _OFFER_EVERY
            return
        self._refused = None
        if all([self._hand_on_in_turn(peer) for peer in list(self._receiving)]):
            for peer in self._receiving:
                self._listen_to(peer)

    def _hand_on_in_turn(self, peer: Receiving) -> bool:
        """Take the frames that have arrived; return whether the receiver still has room."""
        if self._refused is None:
            # Behind the others, as it may have the receiver's room for itself.
            self._receiving.pop(peer)
            self._receiving[peer] = None
            self._hand_on(peer)
        return self._refused is None

    # The directory.

    def _listen(self) -> None:
        self._listener, self._identity = self._directory.listen(self._name)
        self._selector.register(self._listener, selectors.EVENT_READ, self._on_listener)

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            if self._directory.has(self._name, self._identity):
                self._directory.remove(self._name)
            self._shut(listener)

    def _look(self) -> None:
        """Mend what somebody has removed, and connect to what is new."""
        if not self._listens:
            self._connect_all()
            return
        if self._listener is None or not self._directory.has(self._name, self._identity):
            self._warn("gone", "the socket of the backplane in %s is gone: making it anew",
                       self._directory.path)  # fmt: skip
            self._stop_listening()
            try:
                self._directory.prepare()
                self._listen()
            except ConfigError as error:  # tried again at the next look
                self._warn("unusable", "%s", error)
        elif self._listener not in self._selector.get_map():
            self._selector.register(self._listener, selectors.EVENT_READ, self._on_listener)
        self._connect_all()
        self._reception.left()
        names = set(self._directory.names())
        for name in [name for name in self._numbers if name not in names]:
            del self._numbers[name]
            self._reception.gone(name)
        for name in self._left_out.keys() - names - self._sending.keys():
            del self._left_out[name]

    def _warn(self, about: object, text: str, *args: object) -> None:
        """Log a warning, once about each peer or fault."""
        if about in self._warned:
            return
        if len(self._warned) >= _MOST_WARNED:
            self._warned.clear()
        self._warned.add(about)
        logger.warning(text, *args)
