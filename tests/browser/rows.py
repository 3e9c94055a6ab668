"""Expressions for what a log on a page holds: all of its rows, in the document or not."""

from __future__ import annotations

__all__ = ["lines", "notes", "number"]


def _texts(log: str, kind: str) -> str:
    cut = "row.cut ? `${row.text} … ${row.cut.toLocaleString('en')} more characters` : row.text"
    rows = f"[...(({log})?.logView?.store.all() ?? [])]"
    return f"{rows}.filter((row) => (row.kind === 'note') === {kind}).map((row) => {cut})"


def lines(log: str) -> str:
    """Return an expression of the texts of all lines of a log's element."""
    return _texts(log, "false")


def notes(log: str) -> str:
    """Return an expression of the texts of all notes between them."""
    return _texts(log, "true")


def number(log: str) -> str:
    """Return an expression of how many lines there are."""
    return f"(({log})?.logView?.count ?? 0)"
