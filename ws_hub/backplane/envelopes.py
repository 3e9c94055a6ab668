"""The form in which notices cross a broker: as between processes, with the sender's name.

A broker gives everybody everything in one channel, and anybody may write to it. So each body
names its sender, and what breaks these rules is no notice:

- `{"v":1,"from":"0a1b...","n":8,"kind":"publish","name":"news"}` and the texts, as in `notices`.
  The name is 32 hex digits, drawn anew for each life of a backplane, whose numbers begin at 1.
- `n` is one above that of the sender's counted notice before. Where it jumps, notices were
  lost; one that is not above the last is repeated after a fault, and is no other.
- Notices of the kinds `kept`, `hello` and `bye` are not counted: they have the number of the
  last that is. `hello` says that the sender is there, every few seconds, and `bye` that it ends.
  With `"asks":true` all others are to say so as well.
- All bodies of a sender that hears nobody have `"listens":false`: it is none of the processes
  that are reached.
- A body has at most 8 MiB: a broker cuts a subscriber that is 32 MiB behind.
- A text is a JSON object.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import excerpt
from ..protocol.message import from_json
from .bus import Notice, NoticeKind
from .notices import notice_of, parse

__all__ = [
    "BYE",
    "HELLO",
    "HELLO_ALL",
    "KEPT",
    "MAX_BODY_BYTES",
    "Envelope",
    "opened",
    "opening",
    "sealed",
]

MAX_BODY_BYTES = 8 * 1024 * 1024
HELLO, BYE = b',"kind":"hello"}', b',"kind":"bye"}'
HELLO_ALL = b',"kind":"hello","asks":true}'
KEPT = b',"kind":"kept"}'
_DEAF = b',"listens":false'
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Envelope:
    """A notice, its sender and its number.

    Args:
        source: the name of the sender.
        number: of the notice, or of the last that was counted.
        kind: of the notice; of a newer version it may be any.
        notice: None for `hello`, `bye` and unknown kinds, and where it is not needed.
        asks: whether all others are to say that they are there.
        listens: whether the sender hears the others.
        stands_for: see `bus.Notice`.
    """

    source: str
    number: int
    kind: str
    notice: Notice | None
    asks: bool = False
    listens: bool = True
    stands_for: int = 1

    @property
    def is_counted(self) -> bool:
        """Whether it has a number of its own."""
        return self.kind not in ("hello", "bye", NoticeKind.KEPT)


def opening(source: str) -> bytes:
    """Return what all bodies of a sender begin with."""
    return b'{"v":1,"from":"%b",' % source.encode()


def sealed(source: str, number: int, tail: bytes, *, listens: bool = True) -> bytes:
    """Return the body of a notice, of what `notices.encode` has returned for it."""
    return b'%b"n":%d%b%b' % (opening(source), number, b"" if listens else _DEAF, tail)


def opened(body: bytes, needs: Callable[[Notice], bool] = lambda notice: True) -> Envelope:
    """Return what a body says; raises ValueError where it breaks the rules.

    A notice that is not needed is left out, with its texts unread.
    """
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"{len(body)} bytes, at most {MAX_BODY_BYTES}")
    number, fields, texts = parse(body)
    source = fields.get("from")
    if not isinstance(source, str) or not _NAME.fullmatch(source):
        raise ValueError(f"not the name of a sender: {excerpt(source)}")
    notice = notice_of(fields, texts)
    count = 1 if notice is None else notice.stands_for
    if notice is not None and not needs(notice):
        notice, texts = None, ()
    for text in texts:
        _check(text)
    asks, listens = fields.get("asks") is True, fields.get("listens") is not False
    return Envelope(source, number, str(fields["kind"]), notice, asks, listens, count)


def _check(text: bytes) -> None:
    try:
        value = from_json(text.decode())
    except RecursionError as error:
        raise ValueError(f"nested too deeply: {excerpt(text)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"a text that is no JSON object: {excerpt(text)}")
