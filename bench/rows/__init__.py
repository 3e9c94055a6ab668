"""The rows of the benchmark, in the order of the table."""

from __future__ import annotations

from . import crowd, fanout, filters, history, hub, late, plain, progress, slow, sweeps
from .base import Incomplete, Plan, Point, Row, Sample, Setup

__all__ = ["ROWS", "Incomplete", "Plan", "Point", "Row", "Sample", "Setup"]

ROWS: tuple[Row, ...] = (
    *hub.ROWS,
    *history.ROWS,
    *filters.ROWS,
    *fanout.ROWS,
    *slow.ROWS,
    *progress.ROWS,
    *late.ROWS,
    *plain.ROWS,
    *crowd.ROWS,
    *sweeps.ROWS,
)
