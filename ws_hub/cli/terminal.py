"""What stands in a terminal, or in a file, for the messages of channels.

Must not know connections, processes or the hub. A terminal shows an unfinished line as
it looks so far; a file gets each line once, as it looked in the end (`lines`).
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

# Those of a terminal, and those that turn the direction of what stands beside them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CLEAR = "\x1b[K"
_LOOK = 0.25  # seconds between looks at whether to give up
_AT_ONCE = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe takes where it takes any
_WIDEST = 10  # bytes of a character, which may be written as \Uxxxxxxxx


class Screen:
    """One output on which the texts of several sources are written, their lines whole.

    Never raises for an output that has gone (`| head`): it then takes no more. One that
    nobody reads is waited for, as any program in a pipe does, until `leave`.

    Args:
        out: where to write.
        named: begin each line with its source's name.

    Attributes:
        gone: whether nobody reads it any more.
    """

    def __init__(self, out: TextIO, *, named: bool = False) -> None:
        self._out = out
        self._named = named
        self._clear = _CLEAR if out.isatty() else ""
        self._open: str | None = None  # the source whose line is unfinished
        self._piece = False  # it goes on, and is not replaced
        self._until: float | None = None
        self.gone = False

    def leave(self, seconds: float) -> None:
        """Write on for so long at most where it is not taken at once.

        Threads: any; does not wait.
        """
        self._until = time.monotonic() + seconds

    def text(self, source: str, text: str) -> None:
        """Write one text of a process's output; how it ends says what it is.

        A line may end in a newline: those that an application sends by itself often do.
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
        """Write a line that belongs to no process's output."""
        self._put("", text, self._clear + "\n")
        self._open, self._piece = None, False

    def _put(self, source: str, text: str, end: str) -> None:
        goes_on = self._open == source and self._piece
        start = ""
        if self._open is not None and self._open != source:
            start = "\n"  # somebody else's line stands there
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
        # A write that blocks is ended by nothing, neither a signal nor the interpreter's end.
        while not _takes(self._out):
            if self._until is not None and time.monotonic() >= self._until:
                raise TimeoutError("nobody reads it")


def _takes(out: TextIO) -> bool:
    """Wait a moment for room; say whether there is some."""
    try:
        return bool(select.select([], [out], [], _LOOK)[1])
    except (OSError, ValueError):  # it has no descriptor, or one that cannot be asked
        return True


def _mute(out: TextIO) -> None:
    """Let what is still buffered go nowhere: the interpreter flushes it at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, out.fileno())
        finally:
            os.close(nowhere)
    except (OSError, ValueError):
        pass  # it has no descriptor: then nothing is flushed to one


def describe(message: Message) -> str:
    """Return the line in which a person reads a message that is no process's output.

    Control characters are shown, not obeyed: only a process's own output may colour a
    terminal. A status or an error is one line: what stands below it must not be its text.
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
        return f"is {status}{end}"  # whatever else it has: a Go hub always sends a code
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
