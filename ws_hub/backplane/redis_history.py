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

import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .. import threads
from ..config import ChannelRule
from ..errors import ConfigError, HistoryError, excerpt
from ..log import get_logger
from ..protocol.message import number
from .envelopes import KEPT, sealed
from .redis_links import Links
from .redis_scripts import APPEND, EXPIRE, GREET, HEADS, READ, RIGHTS, SNAPSHOT, Script
from .redis_server import RedisServer, Session
from .store import (
    Kept,
    Middle,
    Page,
    Span,
    first_since,
    new_epoch,
    newest_of_keys,
    run_start,
)

__all__ = ["RedisHistory"]

logger = get_logger(__name__)

T = TypeVar("T")
_MOST_PUBLISHED = 65_536  # keys; by number and not by age: a clock may be wrong
_FORGET = 30 * 86_400.0  # seconds until the numbering of an empty channel is forgotten
_PAGE_BYTES = 4 * 1024 * 1024  # of one page; a larger message is alone in its own
_REMEMBERED = 60.0  # seconds for which what was done is known
_MOST_CHANNELS = 500  # of one script
_MOST = 2**53  # a number that scripts can take


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
        self._policy = b""  # one that lets keys go; a warning is due, or was given
        self._is_warned = False  # of it
        self._renew()
        threads.forget_after_fork(self)

    def _renew(self) -> None:
        # A page is read while something is kept.
        self._writer, self._reader = (Links(self._server, self._begin) for _ in range(2))
        self._own = [0] * self._server.shards  # changes that are this store's; by the writer
        # Seconds of the clock of a shard's server before ours, which is monotonic.
        self._ahead = [0.0] * self._server.shards

    def __repr__(self) -> str:
        return f"RedisHistory({self._server.label!r})"

    def open(self, rule_for: Callable[[str], ChannelRule]) -> None:
        """Begin. A server that is away may come back: the calls say so. Raises ConfigError."""
        if self._rule_for is not None:
            raise ConfigError(
                f"{self!r} is in use by another hub: give each hub a RedisBackplane of its own"
            )
        self._rule_for = rule_for
        self.hurry(math.inf)
        try:
            # Asked once: a start does not wait for a server that is away.
            for shard in range(self._server.shards):
                self._writer.run(lambda session: None, shard, patient=False)
        except self._server.refusals as error:
            logger.warning("%s", self._fault(error))
        except self._server.failures as error:
            logger.debug("%s", self._fault(error))  # the backplane says so
        self._warn()

    def hurry(self, seconds: float) -> None:
        """Have no call wait longer than so many seconds from now: see `HistoryStore`."""
        for links in (self._writer, self._reader):
            links.hurry(seconds)

    def close(self) -> None:
        """End. Idempotent."""
        self._rule_for = None
        self._writer.close()
        self._reader.close()

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
        rows = list(newest_of_keys(keys or [None] * len(texts), texts))
        if not rule.history_head_bytes:
            del rows[:-most]
        token, shard = secrets.token_hex(16), self._server.shard_of(channel)
        names = self._keys(shard, "epoch", "changes", "used", "expires", "empty", "once")
        names += [*self._keys_of(channel), self._server.key("done", token, shard=shard)]
        names += [self._states_of(channel)]
        words: list[Any] = [channel, now, expires, most, rule.history_bytes, skip, len(texts)]
        bus = self._server.bus_of(shard)
        begins = run_start(texts) if rule.history_head_bytes else None
        words += [bus, self._kept, int(_REMEMBERED * 1000)]
        words += [rule.history_head_bytes, rule.history_head_messages]
        words += [-1 if begins is None else begins, len(once), *once]
        words += [-1] if ends else [len(states or ())]
        for line, state in () if ends or not states else states.items():
            words += [line, state or ""]
        for place, key, text in rows:
            words += [place, key or "", text]

        def write(session: Session) -> Span:
            # After this the caller is told that it failed.
            late = time.monotonic() + self._server.timeout + self._ahead[shard]
            self._writer.note_sent()
            epoch, first, last, *repeated = _call(
                session, APPEND, names, [new_epoch(), late, *words]
            )
            self._own[shard] += not repeated
            return Span(epoch.decode(), int(first), int(last), tuple(map(bytes.decode, repeated)))

        return self._run(self._writer, write, shard)

    def expire(self, now: float) -> None:
        """Forget what is kept no longer at a POSIX time."""
        for shard in range(self._server.shards):
            names = self._keys(shard, "epoch", "expires", "used", "empty", "once")
            words = [now, now - _FORGET, self._server.key("history", "", shard=shard),
                     _MOST_PUBLISHED]  # fmt: skip

            def forget(session: Session, names: list[str] = names, words: list[Any] = words) -> int:
                return int(_call(session, EXPIRE, names, [new_epoch(), *words]))

            while self._run(self._writer, forget, shard):
                pass  # each on its own: a publisher waits for some channels at most

    # --- read ------------------------------------------------------------------------------

    def has_published(self, once: str) -> bool:
        """Return whether a message was appended with this text: see `HistoryStore`."""
        found = self._ask_each(
            self._reader, lambda shard: ("ZSCORE", self._server.key("once", shard=shard), once)
        )
        return any([each is not None for each in found])

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
        shard = self._server.shard_of(channel)
        names = [*self._keys(shard, "epoch"), *self._keys_of(channel)]
        epoch, last, first, entries, middle = self._run(
            self._reader, lambda session: _call(session, script, names, words), shard
        )
        return _span(epoch, last, first, *middle), tuple(map(_kept, entries))

    def _first_since(self, channel: str, moment: float) -> int:
        """Return the number of the first kept message that is not older than a POSIX time."""
        stream, shard = self._keys_of(channel)[1], self._server.shard_of(channel)

        def text_from(seq: int) -> bytes:
            found = self._ask(("XRANGE", stream, seq, "+", "COUNT", 1), shard)
            return found[0][1][1] if found else b""

        kept = self.head(channel)
        newest = self._ask(("XREVRANGE", stream, "+", "-", "COUNT", 1), shard)
        return first_since(kept.first, _seq(newest[0][0]) if newest else 0, moment, text_from)

    def states(self, channels: Sequence[str]) -> list[Mapping[int, bytes]]:
        """Return the states of each of these channels, by their lines: see `HistoryStore`."""
        return self._in_shards(channels, self._states_in)

    def _states_in(self, shard: int, channels: Sequence[str]) -> list[Mapping[int, bytes]]:
        asked = [("HGETALL", self._states_of(channel)) for channel in channels]
        found: list[Mapping[int, bytes]] = []
        for each in self._run(self._reader, lambda session: session.all(asked), shard):
            pairs = zip(each[::2], each[1::2], strict=True)
            found.append(dict(sorted((int(line), text) for line, text in pairs)))
        return found

    def snapshot(self, channel: str) -> Page:
        """Return the kept messages that have a key: the newest of each."""
        return Page(*self._page(SNAPSHOT, channel, [new_epoch()]))

    def head(self, channel: str) -> Span:
        """Return the numbers from the oldest message kept to the last given."""
        return self.read(channel, limit=0).kept

    def heads(self, channels: Sequence[str]) -> list[Span]:
        """Return the `head` of each of these channels."""
        return self._in_shards(channels, self._heads_of)

    def _in_shards(
        self, channels: Sequence[str], ask: Callable[[int, Sequence[str]], Sequence[T]]
    ) -> list[T]:
        """Return what a function returns for each channel; it is asked of a shard's together."""
        places: dict[int, list[int]] = {}
        for place, channel in enumerate(channels):
            places.setdefault(self._server.shard_of(channel), []).append(place)
        found: dict[int, T] = {}
        for shard, all_of_it in places.items():
            for start in range(0, len(all_of_it), _MOST_CHANNELS):
                part = all_of_it[start : start + _MOST_CHANNELS]
                answers = ask(shard, [channels[place] for place in part])
                found.update(zip(part, answers, strict=True))
        return [found[place] for place in range(len(channels))]

    def _heads_of(self, shard: int, channels: Sequence[str]) -> list[Span]:
        words = [new_epoch(), self._server.key("history", "", shard=shard), *channels]
        names = self._keys(shard, "epoch")
        epoch, *each = self._run(
            self._reader, lambda session: _call(session, HEADS, names, words), shard
        )
        return [_span(epoch, last, first) for last, first in each]

    def version(self) -> object:
        """Return what is another value once another process has kept something; cheap."""
        found = self._ask_each(
            self._writer, lambda shard: ("MGET", *self._keys(shard, "epoch", "changes"))
        )
        return [
            (epoch, int(changes or 0) - own)
            for (epoch, changes), own in zip(found, self._own, strict=True)
        ]

    def names(self) -> list[str]:
        """Return the channels that keep something, longest unused first."""
        found = self._ask_each(
            self._reader,
            lambda shard: (
                "ZRANGE",
                self._server.key("used", shard=shard),
                "0",
                "-1",
                "WITHSCORES",
            ),
        )
        rows = [(float(each[at + 1]), each[at]) for each in found for at in range(0, len(each), 2)]
        return [name.decode(errors="surrogatepass") for _, name in sorted(rows)]

    # --- the server ------------------------------------------------------------------------

    def _opened(self) -> Callable[[str], ChannelRule]:
        if self._rule_for is None:
            raise HistoryError(f"{self!r} is not open: start the hub that it belongs to")
        return self._rule_for

    def _base_of(self, channel: str) -> str:
        return self._server.key("history", channel, shard=self._server.shard_of(channel))

    def _states_of(self, channel: str) -> str:
        return f"{self._base_of(channel)}:states"

    def _keys(self, shard: int, *names: str) -> list[str]:
        return [self._server.key(name, shard=shard) for name in names]

    def _keys_of(self, channel: str) -> list[str]:
        base = self._base_of(channel)
        return [f"{base}:head", f"{base}:messages", f"{base}:keys"]

    def _run(self, links: Links, work: Callable[[Session], T], shard: int) -> T:
        self._opened()
        try:
            return links.run(work, shard)
        except self._server.failures as error:
            raise self._fault(error) from error
        finally:
            self._warn()

    def _ask_each(self, links: Links, words_of: Callable[[int], Sequence[str]]) -> list[Any]:
        self._opened()
        try:
            return links.ask_each(words_of)
        except self._server.failures as error:
            raise self._fault(error) from error
        finally:
            self._warn()

    def _ask(self, words: Sequence[Any], shard: int) -> Any:
        return self._run(self._reader, lambda session: session.call(*words), shard)

    def _fault(self, error: Exception) -> HistoryError:
        return HistoryError(
            f"history in {self._server.label} cannot be used: {excerpt(str(error), 300)}"
        )

    def _begin(self, session: Session, shard: int) -> None:
        """Find out, with a new connection, what there is to know of the server of a shard."""
        bus = self._server.bus_of(shard)
        missing = _call(session, RIGHTS, self._keys(shard, "rights"), [bus])
        if missing:
            raise self._server.forbidden([each.decode() for each in missing])
        seconds, micros = session.call("TIME")
        self._ahead[shard] = int(seconds) + int(micros) / 1e6 - time.monotonic()
        facts = session.call("INFO")
        was_replica = _field(facts, b"master_replid2:").strip(b"0") != b""
        words = [new_epoch(), _field(facts, b"run_id:"), self._fsync(session), int(was_replica)]
        _call(session, GREET, self._keys(shard, "epoch", "run"), words)
        policy = _field(facts, b"maxmemory_policy:")
        if policy != b"noeviction":
            self._policy = policy

    def _warn(self) -> None:
        """Log once that the server lets keys go; not in `_begin`, which has a connection's lock."""
        if self._policy and not self._is_warned:
            self._is_warned = True
            logger.warning(
                "%s may let go of history without a word: its maxmemory-policy is %s. Set it to "
                "noeviction, and maxmemory to what all histories need",
                self._server.label,
                self._policy.decode(errors="replace"),
            )

    def _fsync(self, session: Session) -> str:
        """Return "always" where the server has on its disk what it answers; else ""."""
        try:
            found = session.call("CONFIG", "GET", "append*")
        except self._server.refusals:
            return ""  # it may not be asked
        settings = dict(zip(found[::2], found[1::2], strict=True))
        is_durable = (settings.get(b"appendonly"), settings.get(b"appendfsync")) == (
            b"yes",
            b"always",
        )
        return "always" if is_durable else ""

    def forget(self) -> None:
        """Begin anew in a forked child: the hub's start opens it there."""
        self._rule_for = None
        self._renew()


def _call(session: Session, script: Script, keys: Sequence[str], words: Sequence[Any]) -> Any:
    return session.run(script.text, script.digest, keys, words)


def _seq(id: bytes) -> int:
    return int(id.partition(b"-")[0])


def _span(
    epoch: bytes,
    last: bytes | None,
    first: bytes | None,
    begin: bytes | None = None,
    *middle: bytes | None,
) -> Span:
    seq = int(last or 0)
    found = None
    if middle and None not in middle:
        after, behind, lost = map(_seq, filter(None, middle))
        found = Middle(after, behind - after - 1, lost)
    return Span(epoch.decode(), _seq(first) if first else seq + 1, seq, (), found, int(begin or 0))


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
