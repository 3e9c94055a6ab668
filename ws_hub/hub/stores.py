"""What a hub keeps of its channels' messages, each kind in a store of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from ..config import ChannelRule, HubConfig
from .history import History
from .keyed import KeyedStore
from .overflow import OverflowStore

__all__ = ["Stores"]


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one life of a hub.

    Args:
        history: the last messages of channels with history.
        overflow: what waits for clients that are behind, where messages may be left out.
        keyed: the newest message of each key of keyed channels.
    """

    history: History
    overflow: OverflowStore
    keyed: KeyedStore

    @classmethod
    def of(
        cls,
        config: HubConfig,
        rule_for: Callable[[str], ChannelRule],
        is_heard: Callable[[str], bool],
    ) -> Self:
        """Return the stores of a hub with these settings, empty."""
        history = History(
            rule_for,
            is_heard,
            max_bytes=config.history_bytes_in_all,
            max_published_bytes=config.published_history_bytes_in_all,
        )
        overflow = OverflowStore(rule_for, is_heard, config.outbox_messages, config.outbox_bytes)
        keyed = KeyedStore(
            rule_for,
            is_heard,
            config.history_bytes_in_all,
            config.published_history_bytes_in_all,
        )
        return cls(history, overflow, keyed)
