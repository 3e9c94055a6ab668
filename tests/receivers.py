"""What a receiver of a backplane has to have, for those of tests that look at some of it."""

from __future__ import annotations

__all__ = ["StandIn"]


class StandIn:
    """Counts what is lost, and does nothing about the ends of other processes."""

    lost = 0

    def missed(self, count: int) -> None:
        self.lost += count

    def gone(self, source: str) -> None:
        pass

    def left(self) -> None:
        pass
