"""The output of a program over HTTP: `/api/processes/<id>/log`, for pages, people and tools.

    ?from=LINE&lines=N     lines from a number on
    ?before=LINE&lines=N   the last lines below a number
    ?last=N                the newest lines; 1,000 of them without any of these
    ?search=TEXT           lines that contain a text; `from`, `lines`, `ignorecase`
    ?digest                the beginning, the end and what looks like an error
    ?download              all of it
    &attempt=N             of an earlier attempt, whose last lines are kept

A request may read what it might subscribe to. Answers are JSON, but for a download; so are errors,
which say what to do.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl, quote

from ..errors import HistoryError, HubNotRunning, InvalidName, excerpt
from ..hub.hub import Hub
from ..process.log_folder import is_recording
from ..process.log_reader import LogLine, LogSource, MissingLines, line_fields

__all__ = ["PREFIX", "LogPages"]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Headers = list[tuple[str, str]]

PREFIX = "/api/processes/"
_END = "/log"
_LINES, _MOST_LINES = 1000, 10_000
_MOST_AT_ONCE = 4  # searches and digests at one time, which take a processor
_PIECE = 1 << 16  # bytes of a download at once
_FLAGS = ("digest", "download", "ignorecase")
_NUMBERS = ("attempt", "before", "from", "last", "lines")
_TAKES = {
    "digest": {"digest"},
    "download": {"download"},
    "search": {"search", "from", "lines", "ignorecase"},
    "before": {"before", "lines"},
    "last": {"last"},
    "from": {"from", "lines"},
    "lines": {"lines"},
}  # what each kind of request takes; the first that is there says which it is
_SECURITY: Headers = [
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]


class _Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        code: the kind of error, for programs.
        text: what to do, for people.
        headers: of the answer.
    """

    def __init__(self, status: str, code: str, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.status, self.code, self.text, self.headers = status, code, text, headers


class LogPages:
    """The application for the logs of a hub.

    Args:
        hub: the hub.
        shared: returns the headers that let pages of other origins read an answer.
    """

    def __init__(self, hub: Hub, shared: Callable[[Hub, Environ], Headers]) -> None:
        self._hub = hub
        self._shared = shared
        # guards: nothing; it bounds how many threads search at one time.
        self._searches = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def takes(self, path: str) -> bool:
        """Return whether a path is one of a log."""
        return path.startswith(PREFIX) and path.endswith(_END) and len(path) > len(PREFIX + _END)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a GET or HEAD."""
        process_id = environ["PATH_INFO"][len(PREFIX) : -len(_END)]
        shared = self._shared(self._hub, environ)
        is_head = environ["REQUEST_METHOD"] == "HEAD"
        try:
            status, headers, body = self._answer(environ, _text(process_id))
        except _Refused as refused:
            fields = {"error": refused.text, "code": refused.code}
            status, (headers, body) = refused.status, _json(fields)
            headers += refused.headers
        start_response(status, [*headers, *shared, *_SECURITY])
        if is_head:
            getattr(body, "close", lambda: None)()
            return []
        return body

    def _answer(self, environ: Environ, process_id: str) -> tuple[str, Headers, Iterable[bytes]]:
        hub = self._hub
        try:
            channel = hub.process_channel(process_id)
        except InvalidName as error:
            raise _Refused("400 Bad Request", "bad_process_id", str(error)) from None
        refusal = hub.refuse_reader(environ, channel)
        if refusal is not None:
            code = "unauthorised" if refusal.status.startswith("401") else "forbidden"
            kept = [each for each in refusal.headers if not each[0].startswith("Content-")]
            raise _Refused(refusal.status, code, refusal.text, *kept)
        kind, query = _query(environ.get("QUERY_STRING", ""))
        try:
            attempt = query.pop("attempt", None)
            source, status = self._source(channel, process_id, attempt)
            if kind == "download":
                path = None if source.name == "attempt" else hub.logs.path(process_id)
                return self._download(process_id, source, path)
            fields = self._read(kind, query, source)
            if attempt is None:
                status = hub.logs.status(channel)
        except HubNotRunning:
            text = "the hub does not run at the moment: try again"
            raise _Refused(
                "503 Service Unavailable", "stopped", text, ("Retry-After", "5")
            ) from None
        except HistoryError as error:
            raise _Refused("503 Service Unavailable", "unreadable", str(error)) from None
        if status is None and source.name == "history" and fields["last"] < fields["first"]:
            raise _unknown(process_id)
        headers, body = _json({"processId": process_id, "status": status, **fields})
        return "200 OK", headers, body

    def _source(
        self, channel: str, process_id: str, attempt: int | None
    ) -> tuple[LogSource, dict[str, Any] | None]:
        """Return what to read from; of an attempt that is asked for its status as well."""
        if attempt is None:
            return self._hub.logs.source(channel, process_id), None
        source, status = self._hub.attempts.read(process_id, attempt)
        if status is None:
            raise _not_kept(process_id, attempt)
        return source, status

    def _read(self, kind: str, query: dict[str, Any], source: LogSource) -> dict[str, Any]:
        logs = self._hub.logs
        if kind in ("search", "digest"):
            if not self._searches.acquire(blocking=False):
                text = "as many searches run as may at one time: try again in a second"
                raise _Refused("503 Service Unavailable", "busy", text, ("Retry-After", "1"))
            try:
                if kind == "digest":
                    return {**logs.digest(source), **_missing(source.missing)}
                return self._search(query, source)
            finally:
                self._searches.release()
        count = query.get("last", query.get("lines", _LINES))
        page = logs.page(source, count, first=query.get("from"), before=query.get("before"))
        last = page.lines[-1].number if page.lines else query.get("from", page.last + 1) - 1
        more = last < page.last or (not page.complete and "from" in query)
        return {
            "source": page.source,
            "first": page.first,
            "last": page.last,
            "lines": _lines(page.lines),
            "next": last + 1 if more else None,
            "complete": page.complete,
            **_missing(page.missing),
        }

    def _search(self, query: dict[str, Any], source: LogSource) -> dict[str, Any]:
        found, span = self._hub.logs.search(
            source,
            query["search"],
            query.get("from", 1),
            query.get("lines", _LINES),
            ignore_case=query.get("ignorecase", False),
        )
        return {
            "source": found.source,
            "first": span.first,
            "last": span.last,
            "lines": _lines(found.lines),
            "next": found.next,
            "complete": span.complete,
            **_missing(source.missing),
        }

    def _download(
        self, process_id: str, source: LogSource, path: str | None
    ) -> tuple[str, Headers, Iterable[bytes]]:
        if path is None:
            span = source.span()
            if span.last < span.first:
                raise _unknown(process_id)
            chunks = self._hub.logs.text(source)
            return "200 OK", _attached(process_id + ".log", "text/plain; charset=utf-8"), chunks
        try:
            body = _File(path)
        except OSError as error:
            text = f"the log cannot be read: {error.strerror}"
            raise _Refused("503 Service Unavailable", "unreadable", text) from None
        end = ".cast" if is_recording(path) else ".log"
        kind = "application/x-asciicast" if end == ".cast" else "text/plain; charset=utf-8"
        if path.endswith(".gz"):  # as it is, and not as an encoding of something else
            end, kind = end + ".gz", "application/gzip"
        # Without its length: a log that is being written may become shorter.
        return "200 OK", _attached(process_id + end, kind), body


class _File:
    """A file as the body of an answer, as long as it is now."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed by the server, or here on an error
        self._left = os.fstat(self._file.fileno()).st_size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data = self._file.read(min(_PIECE, self._left))
        if not data:
            raise StopIteration
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file; servers call it."""
        self._file.close()


def _query(text: str) -> tuple[str, dict[str, Any]]:
    """Return which kind of request it is, and its parameters."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name in found:
            raise _bad(f"{name} is there twice: give it once")
        if name in _NUMBERS:
            found[name] = _number(name, value)
        elif name in _FLAGS:
            if value not in ("", "0", "1"):
                raise _bad(f"{name} takes no value, 0 or 1, not {excerpt(value)}")
            found[name] = value != "0"
        elif name == "search":
            if not value or "\n" in value:
                raise _bad("search must be a part of a line: give a text without a newline")
            found[name] = value
        else:
            known = ", ".join(sorted({*_FLAGS, *_NUMBERS, "search"}))
            raise _bad(f"{excerpt(name)} is no parameter of a log: use {known}")
    found = {name: value for name, value in found.items() if value is not False}
    kind = next((name for name in _TAKES if name in found), "last")
    others = sorted(set(found) - _TAKES[kind] - {"attempt"})
    if others:
        takes = " and ".join(sorted(_TAKES[kind] - {kind})) or "nothing else"
        raise _bad(f"{kind} does not go with {' and '.join(others)}: it takes {takes}")
    return kind, found


def _number(name: str, value: str) -> int:
    least = 0 if name in ("last", "lines") else 1
    if not re.fullmatch(r"[0-9]{1,15}", value) or int(value) < least:
        raise _bad(f"{name} must be a whole number from {least}, not {excerpt(value)}")
    return min(int(value), _MOST_LINES) if name in ("last", "lines") else int(value)


def _bad(text: str) -> _Refused:
    return _Refused("400 Bad Request", "bad_parameter", text)


def _unknown(process_id: str) -> _Refused:
    text = (
        f"nothing is known of the process id {excerpt(process_id)}: it has no log here, and its "
        "channel keeps nothing; check the id"
    )
    return _Refused("404 Not Found", "not_found", text)


def _not_kept(process_id: str, attempt: int) -> _Refused:
    text = (
        f"nothing is kept of attempt {attempt} of {excerpt(process_id)}: the last lines of the "
        "ten attempts before the newest are, of those that were begun with their numbers"
    )
    return _Refused("404 Not Found", "not_found", text)


def _text(part: str) -> str:
    """Return a part of a path, which WSGI gives as Latin-1, as text."""
    return part.encode("latin-1", "replace").decode("utf-8", "replace")


def _missing(missing: MissingLines | None) -> dict[str, Any]:
    if missing is None:
        return {}
    fields = {
        "after": missing.after,
        "lines": missing.lines,
        "messages": missing.messages,
        "bytes": missing.total_bytes,
    }
    return {"missing": fields}


def _lines(lines: Iterable[LogLine]) -> list[dict[str, Any]]:
    return [line_fields(line) for line in lines]


def _json(fields: dict[str, Any]) -> tuple[Headers, list[bytes]]:
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    kind = ("Content-Type", "application/json; charset=utf-8")
    return [kind, ("Content-Length", str(len(body)))], [body]


def _attached(name: str, kind: str) -> Headers:
    named = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return [("Content-Type", kind), ("Content-Disposition", named)]
