"""A history store on a Redis or Valkey server: shared by the processes of several machines.

Rules of this file:

- A message, the number that it takes and the notice of it are one script: all or none. What is
  sent again after a fault has the token of the first time, and is done once.
- A script that comes late, when its caller has been told that it failed, does nothing.
- Where a script was sent and the answer is lost, the messages may be kept. They are not taken
  for lost, which would have them delivered without a number, until they were asked for for some
  seconds.
- A server that has started again may have lost the newest numbers. So the epoch is another one
  with each start of the server; messages and the order of the numbers go on. It stays where the
  server had everything on its disk before it answered (`appendfsync always`).

The scripts are in `redis_scripts`, which says what is in which key.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .. import threads
from ..config import ChannelRule
from ..errors import ConfigError, HistoryError, excerpt
from ..log import get_logger
from ..protocol.message import number
from ..reentrant import Lock
from .envelopes import KEPT, sealed
from .redis_scripts import APPEND, EXPIRE, GREET, HEADS, READ, SNAPSHOT, Script
from .redis_server import RedisServer, Session
from .store import Kept, Page, Span, first_since, new_epoch, newest_of_keys

__all__ = ["RedisHistory"]

logger = get_logger(__name__)

T = TypeVar("T")
_MOST_PUBLISHED = 65_536  # keys; by number and not by age: a clock may be wrong
_FORGET = 30 * 86_400.0  # seconds until the numbering of an empty channel is forgotten
_PAGE_BYTES = 4 * 1024 * 1024  # of one page; a larger message is alone in its own
_PATIENCE = 2.0  # seconds in which a server that does not answer is asked again
_SETTLING = 30.0  # the same, where an answer was lost
_PAUSE = 0.1  # seconds between two attempts
_REMEMBERED = 60.0  # seconds for which what was done is known
_MOST_CHANNELS = 500  # of one script
_MOST = 2**53  # a number that scripts can take


class _Link:
    """A connection of a store, made when it is needed."""

    def __init__(self) -> None:
        # guards: the connection, for one call at a time. Nothing is taken under it.
        self.lock = Lock()
        self.session: Session | None = None
        self.failed = False  # the last call
        self.is_sent = False  # messages, in this call, to be kept
        self.ahead = 0.0  # seconds of the server's clock before ours, which is monotonic


class RedisHistory:
    """Keeps the history of channels on a server.

    Args:
        server: the server.
        source: the name under which the others are told.
        clock: POSIX seconds.

    Threads: any; a call waits for the server, some seconds at most.
    """

    def __init__(
        self, server: RedisServer, source: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._server = server
        self._kept = sealed(source, 0, KEPT)
        self._clock = clock
        self._rule_for: Callable[[str], ChannelRule] | None = None
        self._is_warned = False  # of a policy that lets keys go
        self._renew()
        threads.forget_after_fork(self)

    def _renew(self) -> None:
        self._writer, self._reader = _Link(), _Link()  # a page is read while something is kept
        self._own = 0  # changes that are this store's; under the writer's lock
        self._ends = math.inf  # until when a call may wait, in monotonic seconds

    def __repr__(self) -> str:
        return f"RedisHistory({self._server.label!r})"

    def open(self, rule_for: Callable[[str], ChannelRule]) -> None:
        """Begin. A server that is away may come back: the calls say so. Raises ConfigError."""
        if self._rule_for is not None:
            raise ConfigError(
                f"{self!r} is in use by another hub: give each hub a RedisBackplane of its own"
            )
        self._rule_for = rule_for
        self._ends = math.inf
        self._writer.failed = True  # asked once: a start does not wait for a server that is away
        with contextlib.suppress(HistoryError):
            self.version()

    def hurry(self, seconds: float) -> None:
        """Have no call wait longer than so many seconds from now: see `HistoryStore`."""
        self._ends = time.monotonic() + seconds

    def close(self) -> None:
        """End. Idempotent."""
        self._rule_for = None
        for link in (self._writer, self._reader):
            with link.lock:
                self._drop(link)

    # --- write -----------------------------------------------------------------------------

    def append(
        self,
        channel: str,
        texts: Sequence[bytes],
        *,
        keys: Sequence[str | None] | None = None,
        ends: bool = False,
        skip: int = 0,
        once: Sequence[str] = (),
        states: Mapping[int, bytes | None] | None = None,
    ) -> Span:
        """Number and keep messages, all or none; return their numbers: see `HistoryStore`."""
        rule, now = self._opened()(channel), self._clock()
        most = max(rule.history_messages, 1)
        expires = now + (rule.history_ttl if ends else rule.history_idle_ttl)
        rows = list(newest_of_keys(keys or [None] * len(texts), texts))[-most:]
        token = secrets.token_hex(16)
        names = [
            *map(self._server.key, ("epoch", "changes", "used", "expires", "empty", "once")),
            *self._keys_of(channel),
            self._server.key("done", token),
            self._states_of(channel),
        ]
        words: list[Any] = [channel, now, expires, most, rule.history_bytes, skip, len(texts)]
        words += [self._server.bus, self._kept, int(_REMEMBERED * 1000), len(once), *once]
        words += [-1] if ends else [len(states or ())]
        for line, state in () if ends or not states else states.items():
            words += [line, state or ""]
        for place, key, text in rows:
            words += [place, key or "", text]

        def write(link: _Link) -> Span:
            # After this the caller is told that it failed.
            late = time.monotonic() + self._server.timeout + link.ahead
            link.is_sent = True
            epoch, first, last, *repeated = self._call(
                link, APPEND, names, [new_epoch(), late, *words]
            )
            self._own += not repeated
            return Span(epoch.decode(), int(first), int(last), tuple(map(bytes.decode, repeated)))

        return self._run(self._writer, write)

    def expire(self, now: float) -> None:
        """Forget what is kept no longer at a POSIX time."""
        names = [self._server.key(each) for each in ("epoch", "expires", "used", "empty", "once")]

        def forget(link: _Link) -> int:
            words = [new_epoch(), now, now - _FORGET, self._server.key("history", ""),
                     _MOST_PUBLISHED]  # fmt: skip
            return int(self._call(link, EXPIRE, names, words))

        while self._run(self._writer, forget):
            pass  # each on its own: a publisher waits for some channels at most

    # --- read ------------------------------------------------------------------------------

    def has_published(self, once: str) -> bool:
        """Return whether a message was appended with this text: see `HistoryStore`."""
        key = self._server.key("once")
        found = self._run(self._reader, lambda link: self._ask(link, "ZSCORE", key, once))
        return found is not None

    def read(
        self,
        channel: str,
        *,
        after: int | None = None,
        before: int | None = None,
        since_time: float | None = None,
        last: int | None = None,
        limit: int = 1000,
    ) -> Page:
        """Return at most `limit` kept messages: see `HistoryStore`."""
        start, count = after, limit
        if last is not None:
            count = min(last, limit)
        if since_time is not None:
            start = self._first_since(channel, since_time) - 1
        backwards = start is None and (last is not None or before is not None)
        low = min(max(start or 0, 0), _MOST) + 1
        high = "+" if before is None else str(min(max(before - 1, 0), _MOST))
        words = [new_epoch(), low, high, int(backwards), max(count, 0), _PAGE_BYTES]
        kept, messages = self._page(READ, channel, words)
        return Page(kept, messages[::-1] if backwards else messages)

    def _page(
        self, script: Script, channel: str, words: list[Any]
    ) -> tuple[Span, tuple[Kept, ...]]:
        names = [self._server.key("epoch"), *self._keys_of(channel)]
        epoch, last, first, entries = self._run(
            self._reader, lambda link: self._call(link, script, names, words)
        )
        return _span(epoch, last, first), tuple(map(_kept, entries))

    def _first_since(self, channel: str, moment: float) -> int:
        """Return the number of the first kept message that is not older than a POSIX time."""
        stream = self._keys_of(channel)[1]

        def text_from(seq: int) -> bytes:
            ask = ("XRANGE", stream, seq, "+", "COUNT", 1)
            found = self._run(self._reader, lambda link: self._ask(link, *ask))
            return found[0][1][1] if found else b""

        kept = self.head(channel)
        ask = ("XREVRANGE", stream, "+", "-", "COUNT", 1)
        newest = self._run(self._reader, lambda link: self._ask(link, *ask))
        return first_since(kept.first, _seq(newest[0][0]) if newest else 0, moment, text_from)

    def states(self, channels: Sequence[str]) -> list[Mapping[int, bytes]]:
        """Return the states of each of these channels, by their lines: see `HistoryStore`."""
        found: list[Mapping[int, bytes]] = []
        for channel in channels:
            ask = ("HGETALL", self._states_of(channel))
            each = self._run(self._reader, lambda link, ask=ask: self._ask(link, *ask))  # type: ignore[misc]
            pairs = zip(each[::2], each[1::2], strict=True)
            found.append(dict(sorted((int(line), text) for line, text in pairs)))
        return found

    def snapshot(self, channel: str) -> Page:
        """Return the kept messages that have a key: the newest of each."""
        return Page(*self._page(SNAPSHOT, channel, [new_epoch()]))

    def head(self, channel: str) -> Span:
        """Return the numbers from the oldest message kept to the last given."""
        return self.heads([channel])[0]

    def heads(self, channels: Sequence[str]) -> list[Span]:
        """Return the `head` of each of these channels."""
        found: list[Span] = []
        for start in range(0, len(channels), _MOST_CHANNELS):
            part = channels[start : start + _MOST_CHANNELS]
            words = [new_epoch(), self._server.key("history", ""), *part]
            epoch, *each = self._run(
                self._reader,
                lambda link, words=words: self._call(  # type: ignore[misc]
                    link, HEADS, [self._server.key("epoch")], words
                ),
            )
            found += [_span(epoch, last, first) for last, first in each]
        return found

    def version(self) -> object:
        """Return what is another value once another process has kept something; cheap."""
        ask = ("MGET", self._server.key("epoch"), self._server.key("changes"))

        def look(link: _Link) -> object:
            epoch, changes = self._ask(link, *ask)
            return epoch, int(changes or 0) - self._own

        return self._run(self._writer, look)

    def names(self) -> list[str]:
        """Return the channels that keep something, longest unused first."""
        key = self._server.key("used")
        found = self._run(self._reader, lambda link: self._ask(link, "ZRANGE", key, 0, -1))
        return [each.decode(errors="surrogatepass") for each in found]

    # --- the server ------------------------------------------------------------------------

    def _opened(self) -> Callable[[str], ChannelRule]:
        if self._rule_for is None:
            raise HistoryError(f"{self!r} is not open: start the hub that it belongs to")
        return self._rule_for

    def _states_of(self, channel: str) -> str:
        return f"{self._server.key('history', channel)}:states"

    def _keys_of(self, channel: str) -> list[str]:
        base = self._server.key("history", channel)
        return [f"{base}:head", f"{base}:messages", f"{base}:keys"]

    def _run(self, link: _Link, work: Callable[[_Link], T]) -> T:
        """Do something with a connection, again and again for a moment where it fails."""
        self._opened()
        with link.lock:
            began, link.is_sent = time.monotonic(), False
            until = 0.0 if link.failed else began + _PATIENCE
            while True:
                try:
                    if link.session is not None:
                        link.session.check()  # what is sent on one that has ended may be lost
                    else:
                        self._connect(link)
                    found = work(link)
                except self._server.refusals as error:
                    self._drop(link)  # of a replica, another may be the server next
                    link.failed = True
                    raise self._fault(error) from error
                except self._server.failures as error:
                    self._drop(link)
                    if link.is_sent:
                        until = began + _SETTLING
                    if time.monotonic() >= min(until, self._ends):
                        link.failed = True
                        raise self._fault(error) from error
                    threading.Event().wait(_PAUSE)
                else:
                    link.failed = False
                    return found

    def _fault(self, error: Exception) -> HistoryError:
        return HistoryError(
            f"history in {self._server.label} cannot be used: {excerpt(str(error), 300)}"
        )

    def _drop(self, link: _Link) -> None:
        session, link.session = link.session, None
        if session is not None:
            session.close()

    def _connect(self, link: _Link) -> None:
        link.session = self._server.session()
        seconds, micros = self._ask(link, "TIME")
        link.ahead = int(seconds) + int(micros) / 1e6 - time.monotonic()
        facts = self._ask(link, "INFO")
        keys = [self._server.key("epoch"), self._server.key("run")]
        was_replica = _field(facts, b"master_replid2:").strip(b"0") != b""
        words = [new_epoch(), _field(facts, b"run_id:"), self._fsync(link), int(was_replica)]
        self._call(link, GREET, keys, words)
        policy = _field(facts, b"maxmemory_policy:")
        if policy not in (b"", b"noeviction") and not self._is_warned:
            self._is_warned = True
            logger.warning(
                "%s may let go of history without a word: its maxmemory-policy is %s. Set it to "
                "noeviction, and maxmemory to what all histories need",
                self._server.label,
                policy.decode(errors="replace"),
            )

    def _fsync(self, link: _Link) -> str:
        """Return "always" where the server has on its disk what it answers; else ""."""
        try:
            found = self._ask(link, "CONFIG", "GET", "append*")
        except self._server.refusals:
            return ""  # it may not be asked
        settings = dict(zip(found[::2], found[1::2], strict=True))
        is_durable = (settings.get(b"appendonly"), settings.get(b"appendfsync")) == (
            b"yes",
            b"always",
        )
        return "always" if is_durable else ""

    def _ask(self, link: _Link, *words: Any) -> Any:
        assert link.session is not None
        return link.session.call(*words)

    def _call(self, link: _Link, script: Script, keys: Sequence[str], words: list[Any]) -> Any:
        assert link.session is not None
        return link.session.run(script.text, script.digest, keys, words)

    def forget(self) -> None:
        """Begin anew in a forked child: the hub's start opens it there."""
        self._rule_for = None
        self._renew()


def _seq(id: bytes) -> int:
    return int(id.partition(b"-")[0])


def _span(epoch: bytes, last: bytes | None, first: bytes | None) -> Span:
    seq = int(last or 0)
    return Span(epoch.decode(), _seq(first) if first else seq + 1, seq)


def _kept(entry: tuple[bytes, list[bytes]]) -> Kept:
    id, fields = entry
    seq = _seq(id)
    key = fields[3].decode(errors="surrogatepass") if len(fields) > 3 else None
    return Kept(seq, number(fields[1], seq), key)


def _field(answer: bytes, name: bytes) -> bytes:
    for line in answer.splitlines():
        if line.startswith(name):
            return line[len(name) :]
    return b""
