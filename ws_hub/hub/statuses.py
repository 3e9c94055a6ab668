"""Whether the program of a channel runs, or how it has ended, as its newest message says."""

from __future__ import annotations

import json
from typing import Any

from .history import History

__all__ = ["status_of"]

_STATUS, _OUTPUT = b'{"type":"process_status"', b'{"type":"process_output"'


def status_of(history: History, channel: str) -> dict[str, Any] | None:
    """Return the data of a channel's status; None where none is known.

    A program that has printed something runs, unless its channel began without a status: then
    there is no program, but a writer.

    Threads: any.
    """
    position, first = history.position(channel)
    text = history.text(channel, position.seq)
    if text.startswith(_STATUS):
        data = json.loads(text).get("data")
        return data if isinstance(data, dict) else None
    if not text.startswith(_OUTPUT):
        return None
    is_writer = first == 1 and not history.text(channel, first).startswith(_STATUS)
    return None if is_writer else {"status": "running"}
