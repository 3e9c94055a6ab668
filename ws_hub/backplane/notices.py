"""The wire format in which processes tell each other notices, version 1.

Rules of this format:

- A connection carries frames in one direction, from the process that made it: 4 bytes with the
  length of the body, big-endian, and the body, of at most 32 MiB.
- A body is one line of JSON, and for each text of the notice a line feed and the text. A text
  is JSON itself; it holds no line feed.
- The first frame says whose the connection is: `{"v":1,"hello":"417-0a1b2c3d.sock","n":7}`, the
  name of the sender's own socket, which a process that only sends has not, and the number of its
  last notice. It may be repeated at any time, and tells of numbers that no notice came for.
- With `"interest":1` a descriptor comes beside its first byte (SCM_RIGHTS), of the table of what
  the sender wants to be told, see `interest`. Without, it is told all.
- A notice is `{"v":1,"n":8,"kind":"publish","name":"news"}`, with `key`, `deletes`, `time`,
  `origin`, `code` and `reason` where they are not empty, see `bus.Notice`.
- `n` is one above that of the sender's notice before, of those that are for this receiver. Where
  it jumps, notices were lost.
- A notice with `"joined":3` has the texts of three, and the number of the last of them.
- A notice of kind `kept` takes no number: it has that of the notice before it. Those that wait
  together are sent as one, which finds room always; so none is lost.
- A notice of an unknown kind counts and is skipped, as unknown fields are. Another version, or
  a frame against these rules, ends the connection.
"""

from __future__ import annotations

import functools
import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import excerpt
from .bus import Notice, NoticeKind

__all__ = [
    "INTEREST",
    "MAX_FRAME_BYTES",
    "MAX_TAIL_BYTES",
    "MOST_JOINED",
    "FrameBuffer",
    "Hello",
    "Numbered",
    "decode",
    "encode",
    "frame",
    "hello",
    "is_socket_name",
    "joined",
    "notice_of",
    "parse",
]

T = TypeVar("T", str, int, bool)

_VERSION = 1
MOST_JOINED = 256
INTEREST = 1  # the version of the table of what a process wants
MAX_FRAME_BYTES = 32 * 1024 * 1024
MAX_TAIL_BYTES = MAX_FRAME_BYTES - 64  # without the version and the number
_MAX_NUMBER = 2**63
_LENGTH = struct.Struct("!I")
_NOTHING = Notice(NoticeKind.KEPT)[3:]  # what no field but kind, name and texts says
_SOCKET_NAME = re.compile(r"[0-9]{1,10}-[0-9a-f]{8}\.sock")


@dataclass(frozen=True, slots=True)
class Hello:
    """Whose a connection is.

    Args:
        name: the file name of the sender's own socket.
        number: of its last notice.
        interest: the version of the table of what it wants; 0 for none.
    """

    name: str
    number: int
    interest: int = 0


@dataclass(frozen=True, slots=True)
class Numbered:
    """A notice and its number.

    Args:
        number: the sender's number.
        notice: None for one of an unknown kind.
    """

    number: int
    notice: Notice | None


def is_socket_name(name: str) -> bool:
    """Return whether a file name is one that sockets of processes have: no path, above all."""
    return _SOCKET_NAME.fullmatch(name) is not None


def encode(notice: Notice) -> bytes:
    """Return the tail of a notice's frame, which is the same for every number and peer.

    Raises ValueError for a text with a line feed.
    """
    if any(b"\n" in text for text in notice.texts):
        raise ValueError(
            f"a text of a notice holds no line feed, as that ends it: {excerpt(notice.texts)}"
        )
    is_plain = notice[3:] == _NOTHING
    line = _line_of(notice.kind, notice.name) if is_plain else _line(notice)
    return b"\n".join((line, *notice.texts))


@functools.lru_cache(maxsize=1024)  # for the channels that are published to just now
def _line_of(kind: NoticeKind, name: str) -> bytes:
    return _line(Notice(kind, name))


def _line(notice: Notice) -> bytes:
    fields: dict[str, str | int] = {"kind": notice.kind.value}
    for name in ("name", "key", "deletes", "time", "origin", "code", "reason"):
        value = getattr(notice, name)
        if value:
            fields[name] = value
    return ("," + json.dumps(fields, separators=(",", ":"))[1:]).encode("ascii")


def joined(tails: Sequence[bytes]) -> bytes:
    """Return the tail of a notice that stands for several, which differ in their texts alone."""
    line = tails[0].index(b"\n")
    texts = b"".join([tail[line:] for tail in tails])
    return b',"joined":%d%b%b' % (len(tails), tails[0][:line], texts)


def frame(number: int, tail: bytes) -> bytes:
    """Return the frame of a notice, of what `encode` has returned for it."""
    return _framed(b'{"v":%d,"n":%d' % (_VERSION, number), tail)


def hello(name: str, number: int, *, shares: bool = False) -> bytes:
    """Return the frame that says whose a connection is, and whether a table comes beside it."""
    tail = b',"interest":%d}' % INTEREST if shares else b"}"
    return _framed(b'{"v":%d,"hello":"%b","n":%d' % (_VERSION, name.encode(), number), tail)


def _framed(head: bytes, tail: bytes) -> bytes:
    return b"".join((_LENGTH.pack(len(head) + len(tail)), head, tail))


def decode(body: bytes) -> Hello | Numbered:
    """Return what a frame's body says; raises ValueError where it breaks the rules."""
    number, fields, texts = parse(body)
    if "hello" not in fields:
        return Numbered(number, notice_of(fields, texts))
    name = fields["hello"]
    if not isinstance(name, str) or not is_socket_name(name):
        raise ValueError(f"not the name of a socket: {excerpt(name)}")
    return Hello(name, number, _field(fields, "interest", 0))


def parse(body: bytes) -> tuple[int, dict[str, object], tuple[bytes, ...]]:
    """Return the number, the fields and the texts of a body; raises ValueError."""
    line, *texts = body.split(b"\n")
    try:
        fields = json.loads(line.decode())
    except RecursionError as error:
        raise ValueError(f"nested too deeply: {excerpt(line)}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"not a JSON object: {excerpt(line)}")
    version, number = fields.get("v"), fields.get("n")
    if type(version) is not int or version != _VERSION:
        raise ValueError(f"version {excerpt(version)}, not {_VERSION}")
    if type(number) is not int or not 0 <= number < _MAX_NUMBER:
        raise ValueError(f"no number: {excerpt(number)}")
    return number, fields, tuple(texts)


def notice_of(fields: dict[str, object], texts: tuple[bytes, ...]) -> Notice | None:
    """Return the notice of these fields; None for an unknown kind. Raises ValueError."""
    try:
        kind = NoticeKind(_field(fields, "kind", ""))
    except ValueError:
        if isinstance(fields.get("kind"), str):
            return None  # of a newer version
        raise
    return Notice(
        kind,
        _field(fields, "name", ""),
        texts,
        key=_field(fields, "key", ""),
        deletes=_field(fields, "deletes", False),
        time=_field(fields, "time", 0),
        origin=_field(fields, "origin", ""),
        code=_field(fields, "code", 0),
        reason=_field(fields, "reason", ""),
        stands_for=_stands_for(fields),
    )


def _stands_for(fields: dict[str, object]) -> int:
    """Return for how many notices one of these fields stands; raises ValueError."""
    count = _field(fields, "joined", 1)
    if not 1 <= count <= MOST_JOINED:
        raise ValueError(f"joined is {count}")
    return count


def _field(fields: dict[str, object], name: str, default: T) -> T:
    value = fields.get(name, default)
    if type(value) is not type(default):
        raise ValueError(f"{name} is {excerpt(value)}")
    return value


class FrameBuffer:
    """What has arrived of a connection, to be taken frame by frame.

    Threads: one.
    """

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Append what has arrived."""
        self._data += data

    def next(self) -> bytes | None:
        """Return the body of the next frame, None until it is whole.

        Raises ValueError for one that is too large, before it has arrived.
        """
        if len(self._data) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._data)
        if size > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {size} bytes, at most {MAX_FRAME_BYTES}")
        end = _LENGTH.size + size
        if len(self._data) < end:
            return None
        with memoryview(self._data) as view:
            body = bytes(view[_LENGTH.size : end])
        del self._data[:end]
        return body
