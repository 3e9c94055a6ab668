"""Whether the program of a channel runs, or how it has ended, as its newest message says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..backplane.store import HistoryPage
from ..protocol.frames import payload_of
from ..protocol.message import STATUS_PREFIX, MessageType
from ..protocol.publication import USAGE_LINE
from .history import History

__all__ = ["data_of", "status_of", "stored_status_of"]

Pages = Callable[..., HistoryPage]

_PASSED_OVER = 100  # messages of other kinds behind the newest status, or output
_OUTPUT_PREFIX = b'{"type":"process_output"'


def status_of(history: History, channel: str) -> dict[str, Any] | None:
    """Return the data of a channel's status; None where none is known.

    A program that has printed something runs, unless its channel began without a status: then
    there is no program, but a writer. What a program uses that runs is a status as well. Other
    messages behind these, such as those about input, are passed over, a hundred of them.

    Threads: any.
    """
    if history.has_states(channel):
        sample = history.states(channel).get(USAGE_LINE)
        if sample is not None:
            return data_of(payload_of(sample))
    kept = history.span(channel)
    behind = range(kept.last, max(kept.last - _PASSED_OVER, kept.first - 1), -1)
    texts = (history.text(channel, seq) for seq in behind)
    text = next((each for each in texts if each.startswith((STATUS_PREFIX, _OUTPUT_PREFIX))), b"")
    if text.startswith(STATUS_PREFIX):
        return data_of(text)
    if not text.startswith(_OUTPUT_PREFIX):
        return None
    is_writer = kept.first == 1 and not history.text(channel, 1).startswith(STATUS_PREFIX)
    return None if is_writer else {"status": "running"}


def stored_status_of(
    pages: Pages, states: Callable[[str], Mapping[int, bytes]], channel: str
) -> dict[str, Any] | None:
    """Return the same for a channel whose messages are in a store.

    Args:
        pages: `Hub.history`.
        states: returns the states that a channel has beside its history, by their lines.
        channel: its name.

    Threads: any; waits for the store.
    """
    sample = states(channel).get(USAGE_LINE)
    if sample is not None:
        return data_of(sample)
    newest = pages(channel, last=_PASSED_OVER).messages
    kinds = (MessageType.PROCESS_STATUS, MessageType.PROCESS_OUTPUT)
    message = next((each for each in reversed(newest) if each.type in kinds), None)
    if message is None:
        return None
    if message.type == MessageType.PROCESS_STATUS:
        return message.data if isinstance(message.data, dict) else None
    first = pages(channel, since=0, limit=1).messages
    is_writer = first and first[0].seq == 1 and first[0].type != MessageType.PROCESS_STATUS
    return None if is_writer else {"status": "running"}


def data_of(text: bytes) -> dict[str, Any] | None:
    """Return the data of a status, of its encoded message; None where that is no object."""
    data = json.loads(text).get("data")
    return data if isinstance(data, dict) else None
