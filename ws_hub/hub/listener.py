"""A subscriber inside the process: a callable that gets a channel's messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..connection.outbox import Room
from ..protocol.message import Message
from ..protocol.publication import Batch, Publication
from .mailbox import Mailbox

__all__ = ["Listener"]


class Listener:
    """One callable listening to one channel. Made by `Hub.listen`.

    It runs on a thread of its own, so that a slow or raising callable is nobody
    else's concern.

    Args:
        channel: the channel.
        handle: called with each message, in order; must not raise.
        guard: calls something of ours; what that raises is logged, counted, and goes no
            further.
        on_closed: called with this listener when it is closed.
        max_messages: messages that may wait for the callable; more are dropped.
        name: of its thread.
    """

    def __init__(
        self,
        channel: str,
        handle: Callable[[Message], object],
        *,
        guard: Callable[..., object],
        on_closed: Callable[[Listener], None],
        max_messages: int,
        name: str,
    ) -> None:
        self.channel = channel
        self.id = 0  # no client's: `exclude` is about clients
        self.direct = None  # no way that leads past the mailbox
        self.compression = False
        self._handle = handle
        self.replayable = False  # it hears what comes
        self._on_closed = on_closed
        self._dropped = 0  # written by the hub thread only
        self._mailbox: Mailbox[Publication] = Mailbox(
            name, lambda publication: guard(self._take, publication), max_messages
        )

    def _take(self, publication: Publication) -> None:
        self._handle(publication.message)

    @property
    def dropped(self) -> int:
        """How many messages the callable was too slow for.

        Threads: any.
        """
        return self._dropped

    def close(self) -> None:
        """Stop listening. Idempotent; what is queued already is not delivered.

        Threads: any; does not wait for the callable.
        """
        self._on_closed(self)
        self._mailbox.close()

    def join(self, timeout: float) -> bool:
        """Wait for the end of a closed listener; False when its callable still runs.

        Threads: any; at most `timeout` seconds.
        """
        return self._mailbox.join(timeout)

    # --- hub thread ------------------------------------------------------------------------

    def deliver(self, batch: Batch) -> list[Publication]:
        """Queue messages for the callable; return those that found no room.

        They are to be dropped, whatever the channel's rule is for clients: there is no
        connection that could be cut.
        """
        refused = [
            dataclasses.replace(publication, overflow="drop")
            for publication in batch.publications
            if not self._mailbox.post(publication)
        ]
        self._dropped += len(refused)
        return refused

    def offer(self, frames: bytes, messages: int, *, beyond: bool = False) -> bool:
        """Take frames for a remote peer (an ack, a notice): a listener hears what comes."""
        return True

    def offer_piece(self, frames: bytes, messages: int, drained: Callable[[], None]) -> Room:
        """Take a piece of a replay, which is for a remote peer as well."""
        return Room.ENDED

    def charge_bytes(self, count: int) -> float:
        """Note bytes that it is sent: nobody pays for those."""
        return 0.0

    def fileno(self) -> int:
        """Return the descriptor of its socket: it has none."""
        return -1

    def note_drops(self, channel: str, messages: int, reason: str) -> None:
        """Take note of dropped messages, which `dropped` counts already."""

    def count_skipped(self, messages: int) -> None:
        """Take note of messages that a replay left out, which is for a remote peer as well."""
