"""Where `ws-hub log` reads a log: at a hub, by HTTP, or in a file."""

from __future__ import annotations

import functools
import http.client
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from ..errors import excerpt
from ..process.log_cast import cast_lines
from ..process.log_digest import digest
from ..process.log_folder import is_recording
from ..process.log_index import FileLines
from ..process.log_reader import LogLine, LogSource, read_page, search_lines
from ..process.log_times import moment_of
from ..validation import is_line
from .common import DEFAULT_PORT

__all__ = ["FileLog", "HubLog", "Log", "LogRefused", "Wanted", "open_log"]

_PAGE = 10_000  # lines at once
_TIMEOUT = 60.0  # seconds without an answer
_PROCESS = "process:"  # begins the channel of a program
_HOST = re.compile(r"[^/@?#\s]+")
_USER = re.compile(r"([a-z]+://)?.*@", re.DOTALL)
_SAFE = "/%:@!$&'()*+,;=~"  # characters of a path that stay as they are
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class LogRefused(Exception):
    """A log that cannot be read; its text says why, and what to do."""


class Wanted(NamedTuple):
    """Which lines of a log are wanted.

    Args:
        first: from this number on.
        end: up to this number; None for all.
        last: only so many of the newest ones; None for all.
        search: only those with this text; "" for all.
        ignore_case: whatever its case.
    """

    first: int = 1
    end: int | None = None
    last: int | None = None
    search: str = ""
    ignore_case: bool = False


_Page = tuple[Iterable[LogLine], int | None]  # lines, and the number to go on at, if any


def _pages(first: int, end: int | None, page: Callable[[int], _Page]) -> Iterator[list[LogLine]]:
    """Yield the lines of the pages from a number on, up to `end`; None for all."""
    at: int | None = first
    while at is not None:
        lines, at = page(at)
        yield [each for each in lines if end is None or each.number <= end]
        if at is not None and end is not None and at > end:
            return


class Log(Protocol):
    """A log that lines are read from."""

    def pages(self, wanted: Wanted) -> Iterator[list[LogLine]]:
        """Yield lines, many at once; raises LogRefused, and OSError."""

    def digest(self) -> dict[str, Any]:
        """Return what it holds, for tools; raises LogRefused, and OSError."""


def open_log(source: str, process_id: str | None, tell: Callable[[str], object]) -> Log:
    """Return the log that the arguments of the command name; raises LogRefused and OSError.

    Args:
        source: an URL, a host with a process id, or the path of a file.
        process_id: the process id, or its channel; None where `source` has it.
        tell: called with what is to be said while it takes long.
    """
    if "://" not in source:
        if process_id is None:
            return FileLog(source)
        if not _HOST.fullmatch(source):
            raise LogRefused(f"{_shown(source)} is no host: give host, host:port or an URL")
        has_port = re.search(r":\d+$", source)
        source = f"http://{source}" if has_port else f"http://{source}:{DEFAULT_PORT}"
    try:
        parts = urlsplit(source)
        is_hub = parts.scheme in _SCHEMES and bool(_HOST.fullmatch(parts.netloc))
        (parts.hostname or "").encode("idna")
        parts.port  # noqa: B018 - raises ValueError for one that is none
    except ValueError:
        is_hub = False
    if not is_hub:
        raise LogRefused(
            f"{_shown(source)} is no URL of a hub: give http://host:port/, or that of its page"
        )
    named = parse_qs(parts.query).get("channel", [])
    if process_id is None and len(named) == 1:
        process_id = named[0]
    if process_id is None:
        raise LogRefused("a process id is required: ws-hub log URL ID")
    token = os.environ.get("WS_HUB_TOKEN") or None
    if token is not None and not is_line(token):
        raise LogRefused("WS_HUB_TOKEN must be one line of text: set it to the token alone")
    # The page's, below any prefix, or that of the WebSocket.
    prefix = quote(parts.path.removesuffix("/ws").rstrip("/"), safe=_SAFE)
    name = quote(process_id.removeprefix(_PROCESS), safe="")
    return HubLog(
        f"{_SCHEMES[parts.scheme]}://{parts.netloc}",
        f"{prefix}/api/processes/{name}/log",
        token,
        tell,
    )


def _shown(source: str) -> str:
    """Return what was given, for an error text: without a user and a password."""
    return excerpt(_USER.sub(r"\1***@", source, count=1))


class HubLog:
    """A log that a hub serves.

    Args:
        server: the beginning of its URL.
        path: the rest, without the query.
        token: sent as `Authorization: Bearer`; None for none.
        tell: called with what is to be said while it takes long.
    """

    def __init__(
        self, server: str, path: str, token: str | None, tell: Callable[[str], object]
    ) -> None:
        self._server = server
        self._path = path
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}".encode()}
        self._tell = tell

    def pages(self, wanted: Wanted) -> Iterator[list[LogLine]]:
        """Yield lines, many at once."""
        first = wanted.first
        if wanted.last is not None:
            first = max(self._last() - wanted.last + 1, 1)
        query: dict[str, object] = {"lines": _PAGE}
        if wanted.search:
            query |= {"search": wanted.search}
            query |= {"ignorecase": 1} if wanted.ignore_case else {}

        def page(first: int) -> _Page:
            answer = self._ask({**query, "from": first})
            return map(_line, answer["lines"]), answer["next"]

        yield from _pages(first, wanted.end, page)

    def digest(self) -> dict[str, Any]:
        """Return what it holds."""
        return self._ask({"digest": ""})

    def _last(self) -> int:
        """Return the number of the newest line, once the hub has found it."""
        while True:
            answer = self._ask({"last": 0})
            if answer.get("complete", True):
                return int(answer["last"])
            self._tell(f"the hub reads the log: {answer['last']:,} lines so far")

    def _ask(self, query: dict[str, object]) -> dict[str, Any]:
        kind, _, host = self._server.partition("://")
        connect = http.client.HTTPSConnection if kind == "https" else http.client.HTTPConnection
        connection = connect(host, timeout=_TIMEOUT)
        try:
            try:
                connection.request("GET", f"{self._path}?{urlencode(query)}", None, self._headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise LogRefused(f"{self._server} cannot be asked: {error}") from error
        finally:
            connection.close()
        return self._fields(answer, body)

    def _fields(self, answer: http.client.HTTPResponse, body: bytes) -> dict[str, Any]:
        place = self._server + self._path
        if 300 <= answer.status < 400:
            there = excerpt(answer.headers.get("Location", ""))
            raise LogRefused(f"{place} leads to {there}: give that one's URL")
        try:
            fields = json.loads(body)
            if answer.status != 200:
                why = f"{answer.status}: {fields['error']}"
                if answer.status == 401:
                    why += "; set WS_HUB_TOKEN to a token"
                raise LogRefused(f"{place} answers {why}")
            if not isinstance(fields, dict) or "processId" not in fields:
                raise ValueError(fields)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LogRefused(
                f"{place} answers {answer.status}, and not as the page of a hub does: "
                "give the URL of that"
            ) from error
        return fields


def _line(fields: dict[str, Any]) -> LogLine:
    return LogLine(
        fields["line"], fields["text"], fields.get("stream", ""), moment_of(fields.get("time", 0))
    )


class FileLog:
    """A log in a file: a text, or a recording (`.cast`), compressed or not (`.gz`).

    Args:
        path: the file. Raises OSError where it cannot be read, LogRefused for a pipe or a
            device, HistoryError for a recording that is none.
    """

    def __init__(self, path: str) -> None:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            raise LogRefused(
                f"cannot read {excerpt(path)}: it is a pipe or a device; give the path of a file"
            )
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise OSError(
                f"cannot read {excerpt(path)}: {error.strerror or error}; give the path of "
                "another file"
            ) from error
        self._source: LogSource = cast_lines(path) if is_recording(path) else FileLines(path)
        self._path = path

    def pages(self, wanted: Wanted) -> Iterator[list[LogLine]]:
        """Yield lines, many at once."""
        first = max(wanted.first, self._source.first)
        if wanted.last is not None:
            first = max(self._source.span().last - wanted.last + 1, self._source.first)
        yield from _pages(first, wanted.end, functools.partial(self._page, wanted))

    def _page(self, wanted: Wanted, first: int) -> _Page:
        if wanted.search:
            lines, after = search_lines(
                self._source, wanted.search, first, _PAGE, ignore_case=wanted.ignore_case
            )
        else:
            lines = read_page(self._source, first, _PAGE)
            after = lines[-1].number + 1 if lines else None
        return self._source.dated(lines), after

    def digest(self) -> dict[str, Any]:
        """Return what it holds."""
        return digest(self._source)
