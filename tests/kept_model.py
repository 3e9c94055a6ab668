"""What a channel keeps by its rule, message by message: the simplest thing that is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ws_hub import ChannelRule
from ws_hub.backplane.store import Middle

__all__ = ["KeptModel"]


@dataclass
class KeptModel:
    """The messages that a channel keeps, with the sizes that its store counts.

    Attributes:
        rule: the channel's.
        last: the last number given.
        sizes: the size of each message kept, by its number.
        head: the numbers of the beginning.
        is_open: whether it may get more.
        lost: the sizes of the messages that were let go behind a number, by that number.
    """

    rule: ChannelRule
    last: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    head: list[int] = field(default_factory=list)
    is_open: bool = True
    lost: dict[int, int] = field(default_factory=dict)

    def add(self, sizes: Sequence[int], begins: int | None = None) -> None:
        """Keep the next messages, of which one may begin a run."""
        for place, size in enumerate(sizes):
            if place == begins or not self.sizes:
                self.head, self.is_open = [], True
            self.last += 1
            self.sizes[self.last] = size
            room = self.rule.history_head_bytes - sum(self.sizes[each] for each in self.head)
            self.is_open = (
                self.is_open
                and size <= room
                and len(self.head) < self.rule.history_head_messages
            )  # fmt: skip
            if self.is_open:
                self.head.append(self.last)
        while (
            len(self.sizes) > self.rule.history_messages
            or sum(self.sizes.values()) > self.rule.history_bytes
        ):
            stay = {*self.head, self.last}
            gone = next((each for each in self.sizes if each not in stay), None)
            if gone is None:
                break
            before = max((each for each in self.sizes if each < gone), default=None)
            size = self.sizes.pop(gone)
            if before is not None:
                self.lost[before] = self.lost.get(before, 0) + size

    def leave_out(self, count: int) -> None:
        """Leave out so many numbers."""
        self.last += count

    def forget(self) -> None:
        """Keep nothing any more; the numbers go on."""
        self.sizes, self.head, self.lost = {}, [], {}

    @property
    def numbers(self) -> list[int]:
        """The numbers of the messages kept."""
        return sorted(self.sizes)

    @property
    def first(self) -> int:
        """The number of the oldest message kept."""
        return min(self.sizes, default=self.last + 1)

    @property
    def middle(self) -> Middle | None:
        """What was let go between two messages."""
        found = [each for each in self.lost if each in self.sizes]
        if not found:
            return None
        (after,) = found
        following = min(each for each in self.sizes if each > after)
        return Middle(after, following - after - 1, self.lost[after])
