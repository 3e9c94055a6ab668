"""Whether the program of a channel runs, or how it has ended, as its newest message says."""

from __future__ import annotations

import json
from typing import Any

from ..protocol.frames import payload_of
from ..protocol.publication import USAGE_LINE
from .history import History

__all__ = ["data_of", "status_of"]

_STATUS, _OUTPUT = b'{"type":"process_status"', b'{"type":"process_output"'


def status_of(history: History, channel: str) -> dict[str, Any] | None:
    """Return the data of a channel's status; None where none is known.

    A program that has printed something runs, unless its channel began without a status: then
    there is no program, but a writer. What a program uses that runs is a status as well.

    Threads: any.
    """
    if history.has_states(channel):
        sample = history.states(channel).get(USAGE_LINE)
        if sample is not None:
            return data_of(payload_of(sample))
    position, first = history.position(channel)
    text = history.text(channel, position.seq)
    if text.startswith(_STATUS):
        return data_of(text)
    if not text.startswith(_OUTPUT):
        return None
    is_writer = first == 1 and not history.text(channel, first).startswith(_STATUS)
    return None if is_writer else {"status": "running"}


def data_of(text: bytes) -> dict[str, Any] | None:
    """Return the data of a status, of its encoded message; None where that is no object."""
    data = json.loads(text).get("data")
    return data if isinstance(data, dict) else None
