"""Writes the messages of channels to a terminal or a file.

A terminal shows an unfinished line as it is so far; a file gets each line once, in its
last state (`ws_hub.lines`).
"""

from __future__ import annotations

import json
import os
import re
import select
import time
from typing import Any, TextIO

from ..lines import GOES_ON, REPLACED
from ..protocol.message import FINAL_STATUSES, Message, MessageType, parse_timestamp

__all__ = ["Screen", "describe"]

# Control characters of a terminal, and those that change the direction of text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CLEAR = "\x1b[K"
_LOOK = 0.25  # seconds of one wait for room: then `leave` may apply
_AT_ONCE = getattr(select, "PIPE_BUF", 512)  # bytes that a writable pipe takes at least
_WIDEST = 10  # bytes of a character at most, when it is written as \Uxxxxxxxx


class Screen:
    """Writes the texts of several sources to one output, and keeps their lines whole.

    It raises nothing for an output that is closed at its other end (`| head`), and then
    writes no more. An output that is not read is waited for, as by any program in a pipe,
    until `leave`.

    Args:
        out: the output.
        named: begin each line with its source's name.

    Attributes:
        gone: whether the output is closed at its other end.
    """

    def __init__(self, out: TextIO, *, named: bool = False) -> None:
        self._out = out
        self._named = named
        self._clear = _CLEAR if out.isatty() else ""
        self._open: str | None = None  # the source whose line is unfinished
        self._piece = False  # the next text of that line continues it, not replaces it
        self._until: float | None = None
        self.gone = False

    def leave(self, seconds: float) -> None:
        """Wait for an output that is not read for `seconds` more, then give it up.

        Threads: any; does not wait.
        """
        self._until = time.monotonic() + seconds

    def text(self, source: str, text: str) -> None:
        """Write one text of a process's output; its last character tells its kind.

        A newline at its end is accepted: texts that an application sends itself often have
        one.
        """
        whole = text.endswith("\n")
        if whole:
            text = text[:-1].removesuffix("\r")
        if text.endswith(REPLACED) and not whole:
            if self._clear:
                self._put(source, text[:-1], _CLEAR + "\r")
                self._open = source
        elif text.endswith(GOES_ON) and not whole:
            self._put(source, text[:-1], "")
            self._open, self._piece = source, True
        else:
            self._put(source, text, self._clear + "\n")
            self._open, self._piece = None, False

    def line(self, text: str) -> None:
        """Write a line that is not part of a process's output."""
        self._put("", text, self._clear + "\n")
        self._open, self._piece = None, False

    def _put(self, source: str, text: str, end: str) -> None:
        goes_on = self._open == source and self._piece
        start = ""
        if self._open is not None and self._open != source:
            start = "\n"  # another source's line is unfinished
            self._piece = False
        if self._named and source and not goes_on:
            start += f"{source}: "
        self._write(start + text + end)

    def _write(self, text: str) -> None:
        if self.gone:
            return
        try:
            size = _AT_ONCE if text.isascii() else _AT_ONCE // _WIDEST
            for start in range(0, len(text), size):
                self._wait_for_room()
                self._out.write(text[start : start + size])
                self._out.flush()
        except (OSError, ValueError):
            self.gone = True
            _mute(self._out)

    def _wait_for_room(self) -> None:
        # Nothing ends a write that blocks, neither a signal nor the interpreter's end.
        while not _takes(self._out):
            if self._until is not None and time.monotonic() >= self._until:
                raise TimeoutError("the output is not read")


def _takes(out: TextIO) -> bool:
    """Wait for _LOOK seconds at most; return whether the output has room."""
    try:
        return bool(select.select([], [out], [], _LOOK)[1])
    except (OSError, ValueError):  # it has no descriptor, or one without select
        return True


def _mute(out: TextIO) -> None:
    """Redirect the output to /dev/null: the interpreter flushes its buffer at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, out.fileno())
        finally:
            os.close(nowhere)
    except (OSError, ValueError):
        pass  # it has no descriptor to flush to


def describe(message: Message) -> str:
    """Return a message that is not a process's output as a line to read.

    Control characters are escaped: only a process's own output may colour a terminal. The
    text of a status or an error is kept on one line, so that it cannot imitate another
    message.
    """
    data = message.data
    if message.type == MessageType.PROCESS_STATUS:
        return _one_line(f"{message.channel} {_status(data)}")
    parts = [_clock(message.timestamp), message.channel]
    event = data if isinstance(data, dict) else {}
    if message.type == MessageType.EVENT and isinstance(event.get("event"), str):
        record = event.get("data")
        if event["event"] == "log" and isinstance(record, dict) and "message" in record:
            parts += [str(record.get("level", "")), f"{record.get('name', '')}:"]
            more = [record.get(name) for name in ("exception", "stack")]
            parts += [str(record["message"]), *(str(each) for each in more if each)]
        else:
            parts += [event["event"], "" if record is None else _json(record)]
    else:
        parts += [str(message.type), data if isinstance(data, str) else _json(data)]
    text = " ".join(part for part in parts if part).rstrip()
    return _one_line(text) if message.type == MessageType.ERROR else _visible(text)


def _status(data: Any) -> str:
    if not isinstance(data, dict):
        return _json(data)
    status, code, why = data.get("status"), data.get("exitCode"), data.get("error")
    end = f": {why}" if why else ""
    if not isinstance(status, str) or status not in FINAL_STATUSES:
        return f"is {status}{end}"  # without the exit code, which a Go hub always sends
    if status == "exited":
        if data.get("signal"):
            return f"was killed by {data['signal']}"
        return f"exited {code}" if isinstance(code, int) else f"exited, code unknown{end}"
    return f"{status}{f' {code}' if code else ''}{end}"


def _clock(timestamp: str) -> str:
    try:
        return parse_timestamp(timestamp).astimezone().strftime("%H:%M:%S")
    except (ValueError, OverflowError):
        return ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _visible(text: str) -> str:
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def _one_line(text: str) -> str:
    return _visible(text).replace("\n", "\\n")
