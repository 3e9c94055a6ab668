"""What passes the filters of subscriptions, of what is delivered and of what is replayed.

Rules of this file:

- The data of a message is looked at once for all filters of its channel, and a piece of a
  replay once for all clients with equal filters that come to it soon.
- In a keyed channel a filter is about states: of a key whose new state does not pass, a client
  that has the state before it gets the deletion, because the key is in its view no more.
- A position goes on over what does not pass. Where a client's would be left far behind, it is
  told the number alone, by `skip`.

Everything here runs on the hub thread, which owns it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ..protocol.filters import Filter, fields_of
from ..protocol.frames import payload_of, split, text_frame
from ..protocol.message import Message, MessageType, decode, encode
from ..protocol.publication import Publication, skip, without_data
from .history import Piece, SparsePiece
from .subscriptions import Group

__all__ = ["Look", "Sieve"]

_CACHE_BYTES = 2 * 1024 * 1024  # of the pieces whose parts are kept to be shared
_CACHED = 1024  # pieces of these


class Look:
    """One look at the messages of a channel that are about to be delivered.

    Args:
        run: the messages, in order.
    """

    def __init__(self, run: Sequence[Publication]) -> None:
        self._run = run
        self._data = [fields_of(each.text) for each in run]
        self._former = [fields_of(payload_of(each.former)) if each.former else None for each in run]
        self._deletions: dict[int, Publication] = {}
        self._skip: Publication | None = None

    def passing(self, filter: Filter) -> list[Publication]:
        """Return what the subscribers with a filter get."""
        passes = filter.passes
        found = []
        for index, publication in enumerate(self._run):
            if passes(self._data[index]):
                found.append(publication)
            elif publication.key and passes(self._former[index]):
                found.append(publication if publication.deletes else self._deletion(index))
        return found

    def _deletion(self, index: int) -> Publication:
        found = self._deletions.get(index)
        if found is None:
            found = self._deletions[index] = without_data(self._run[index], time.time())
        return found

    def told(self, group: Group[Any], passing: Sequence[Publication], far: int) -> bool:
        """Note how far a group is told; return whether it is to be told the last number.

        It is when it has not been told any of the last `far` numbers.
        """
        last = self._run[-1].seq
        if passing or not last:
            group.told = passing[-1].seq if passing else group.told
            return False
        if 0 <= last - group.told < far:
            return False
        group.told = last
        return True

    def skip(self) -> Publication:
        """Return what tells the last number."""
        if self._skip is None:
            self._skip = skip(self._run[-1], time.time())
            self._skip.overflow = "drop"  # nobody is cut for want of room for it
        return self._skip


_Key = tuple[int, int, int, Filter, int | None, bool]


class Sieve:
    """Takes out of the pieces of replays what does not pass."""

    def __init__(self) -> None:
        # By the identity of the frames, which are kept with what is left of them.
        self._cache: OrderedDict[_Key, tuple[bytes, tuple[bytes, int]]] = OrderedDict()
        self._cache_bytes = 0

    def sift(
        self, channel: str, piece: Piece, filter: Filter, fresh: int | None, numbers: bool
    ) -> Piece:
        """Return what passes of a piece.

        `fresh` is None, or in a keyed channel the number up to which deletions are of keys that
        the receiver never had. With `numbers`, the receiver is told the first number of a
        piece of a history, and the last of any piece, also if these do not pass: it goes by the
        one to count what the history has let go, and by the other to go on.
        """
        frames = piece.frames
        first = piece.first + piece.holes
        key = id(frames), first, piece.last, filter, fresh, numbers
        found = self._cache.get(key)
        if found is None:
            left = _sift(channel, piece, filter, fresh, numbers)
            self._keep(key, frames, left)
        else:
            left = found[1]
            self._cache.move_to_end(key)
        joined, count = left
        omitted = piece.messages - count
        return SparsePiece(
            joined, piece.first, piece.last, piece.head, piece.holes, omitted, count=count
        )

    def _keep(self, key: _Key, frames: bytes, left: tuple[bytes, int]) -> None:
        self._cache[key] = frames, left
        self._cache_bytes += len(frames)
        while self._cache_bytes > _CACHE_BYTES or len(self._cache) > _CACHED:
            _, (dropped, _) = self._cache.popitem(last=False)
            self._cache_bytes -= len(dropped)


def _sift(
    channel: str, piece: Piece, filter: Filter, fresh: int | None, numbers: bool
) -> tuple[bytes, int]:
    """Return the frames that are left of a piece, joined, and how many these are."""
    found, before = list[bytes](), -1
    for index, frame in enumerate(split(piece.frames)):
        text, before = payload_of(frame), len(found)
        if filter.passes(fields_of(text)):
            found.append(frame)
        elif fresh is not None:
            found += _as_deletion(text, frame, fresh)
        elif numbers and not index:
            found.append(_number(channel, piece.first + piece.holes))
    if numbers and len(found) == before:  # the last of the piece is left out
        found.append(_number(channel, piece.last))
    return b"".join(found), len(found)


def _as_deletion(text: bytes, frame: bytes, fresh: int) -> list[bytes]:
    """Return what is told of a state that does not pass: that its key has none."""
    message = decode(text.decode())
    if message.seq is None or message.seq <= fresh:
        return []  # the receiver never had one
    if message.data is None:
        return [frame]
    deletion = Message(
        MessageType.EVENT, message.channel, timestamp=message.timestamp, seq=message.seq,
        key=message.key,
    )  # fmt: skip
    return [text_frame(encode(deletion))]


def _number(channel: str, seq: int) -> bytes:
    return text_frame(encode(Message(MessageType.SKIP, channel, seq=seq), time.time()))
