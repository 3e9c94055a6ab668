"""Says in short what a log holds, for tools: its beginning, its end, and what looks like an error.

A line looks like an error when one of these holds, colours left out of account:

- `file:line:` or `file:line:column:`, then `error` or `fatal error`, as compilers write it;
  `file(line,column): error` too
- it begins, after spaces, with `error`, `fatal`, `panic`, or such a word in capitals or within
  brackets, and `:`, `[` or `!` follows; or with `npm ERR!`, `make: ***`, `FAILED `, `Traceback (`
- it begins with the name of an exception and a colon: `ValueError: ...`, `java.io.IOException: ...`
- `::error` or `##[error]`, as for CI systems

A group begins with `::group::`, `##[group]`, `--- ` or `+++ `, as for CI systems. No I/O and no
clock of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from .log_reader import Late, LogLine, LogSource, line_fields, never, read_below, read_page, visible

__all__ = ["HEAD_LINES", "MOST_ERRORS", "TAIL_LINES", "digest"]

HEAD_LINES = 20
TAIL_LINES = 100
MOST_ERRORS = 100  # and groups
_MOST_TEXT = 1000  # characters of one line
_MOST_MATCHED = 4000  # bytes of one

# One of these is in every line that can match below, in small letters: to look for a word takes
# a hundredth of what an expression takes.
_ERROR_WORDS = tuple(
    word.encode() for word in "error fatal panic failed traceback exception err! interrupt:".split()
)
_GROUP_WORDS = b"::group::", b"##[group]", b"\n--- ", b"\n+++ "
_ERROR = re.compile(
    r"""
    (?P<file> (?:[A-Za-z]:(?=[\\/]))? [^\s:()][^:()\n]*?)
        (?: : (?P<line>\d+) (?: : (?P<column>\d+) )?
          | \( (?P<line2>\d+) (?: , (?P<column2>\d+) )? \) )
        : \s* (?i:fatal\ )? (?i:error)\b
    | \s* (?: \[ (?:ERROR|FATAL|error|fatal) \]
            | (?: error|Error|ERROR|fatal|FATAL|Fatal|panic|PANIC ) (?: \s* [:!\[] )
            | npm\ ERR! | make(?:\[\d+\])?:\ \*\*\* | FAILED\  | Traceback\ \(most
            | (?: \w+\. )* \w* (?: Error|Exception|KeyboardInterrupt ) :
            | (?: ::error|\#\#\[error\] ) )
    """,
    re.VERBOSE,
)
_GROUP = re.compile(rb"(?:::group::|##\[group\]|(?:---|\+\+\+) )(.*)\Z")


def digest(source: LogSource, *, late: Late = never) -> dict[str, Any]:
    """Return what a log holds, as JSON for tools; looks at its lines until it is late.

    `complete` says whether that was all of them, and `searched` which the last one was. Before the
    log was read to its end, `last` is how far it was, and there is no tail.
    """
    first = source.first
    errors: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    count, searched = 0, first - 1
    for numbers, data, _ in source.chunks(first):
        if late():
            break
        if not data:
            continue
        seen = visible(data)
        for number, line in _lines_with(_ERROR_WORDS, numbers, seen):
            if found := _ERROR.match(line[:_MOST_MATCHED].decode("utf-8", "replace")):
                count += 1
                if len(errors) < MOST_ERRORS:
                    errors.append(_error(number, line, found))
        for number, line in _lines_with(_GROUP_WORDS, numbers, seen):
            if len(groups) < MOST_ERRORS and (begun := _GROUP.match(line)):
                title = begun[1].decode("utf-8", "replace")[:_MOST_TEXT]
                groups.append({"line": number, "title": title.strip()})
        searched = numbers[-1]
    last, is_known = source.span(late)[1:]
    places = tuple(LogLine(error["line"], "") for error in errors)
    head = read_page(source, first, HEAD_LINES, late)
    begin = max(last - TAIL_LINES + 1, first + len(head))
    tail = read_below(source, begin, last + 1) if is_known else ()
    return {
        "source": source.name,
        "first": first,
        "last": last,
        "head": _lines(source, head),
        "tail": _lines(source, tail),
        "errors": [
            fields | error for fields, error in zip(_lines(source, places), errors, strict=True)
        ],
        "errorCount": count,
        "groups": groups,
        "searched": searched,
        "complete": is_known and searched >= last,
    }


def _lines_with(
    words: Sequence[bytes], numbers: Sequence[int], data: bytes
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that contain one of some words in small letters, whatever their case."""
    lowered = b"\n" + data.lower()
    ends = {
        lowered.find(b"\n", at + len(word))
        for word in words
        if word in lowered
        for at in _places(lowered, word)
    }
    place, before = -1, 0
    for end in sorted(ends):
        start = lowered.rfind(b"\n", 0, end) + 1
        place += lowered.count(b"\n", before, start)
        before = start
        yield numbers[place], data[start - 1 : end - 1]


def _places(data: bytes, word: bytes) -> Iterator[int]:
    """Yield where a word is, once for each line."""
    at = data.find(word)
    while at >= 0:
        yield at
        end = data.find(b"\n", at + len(word))
        at = data.find(word, end)


def _lines(source: LogSource, lines: tuple[LogLine, ...]) -> list[dict[str, Any]]:
    dated = source.dated(lines)
    return [line_fields(line._replace(text=line.text[:_MOST_TEXT])) for line in dated]


def _error(number: int, line: bytes, found: re.Match[str]) -> dict[str, Any]:
    error: dict[str, Any] = {"line": number, "text": line.decode("utf-8", "replace")[:_MOST_TEXT]}
    if found["file"] is not None:
        place = {
            "file": found["file"],
            "fileLine": int(found["line"] or found["line2"]),
            "column": found["column"] or found["column2"],
        }
        if place["column"] is None:
            del place["column"]
        else:
            place["column"] = int(place["column"])
        error |= place
    return error
