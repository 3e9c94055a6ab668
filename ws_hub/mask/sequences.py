r"""Control sequences that leave the text around them together, and that text without them.

"sec\x1b[31mret" shows "secret". A sequence that moves the cursor is not among these: what it
has a screen show is known when the row is assembled (`ws_hub.rows`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["Bare", "bare"]

_MAX_SEQUENCE = 4096  # characters; what is longer is no sequence
_TOGETHER = re.compile(
    r"\x1b\[[0-?]*[ -/]*[hlmnqrKt]"
    r"|\x1b[\]PX^_][^\x07\x1b]{0,4092}(?:\x07|\x1b\\)"  # within _MAX_SEQUENCE
    r"|\x1b[ #%()*+\-./]."
    r"|\x1b[0-6=>Z\\n-~]"
    r"|[\x00-\x07\x0e-\x1a\x1c-\x1f\x7f-\x9f]",
    re.DOTALL,
)
_APART = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[ -Z\\-~])")
_CONTROL = re.compile(r"[\x00-\x07\x0e-\x1f\x7f-\x9f]")
_OPEN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ #%()*+\-./]*)\Z")
_STRING = ("\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_")  # these have text of their own


def _escapes(match: re.Match[str]) -> str:
    return "\x1b" * len(match[0])


def bare(text: str) -> str:
    """Return a text without such sequences."""
    return _TOGETHER.sub("", text)


class Bare:
    """A text without such sequences, and where they are.

    Args:
        text: the text.
        whole: nothing follows it; otherwise an unfinished sequence at its end is left for later.

    Attributes:
        text: the text without them, to be searched: other sequences, such as those that move the
            cursor, are as many ESC as they have characters.
        shown: the same with these sequences.
        gaps: each sequence, before which character of `text` it is.
        rest: the unfinished sequence.
    """

    __slots__ = ("gaps", "rest", "shown", "text")

    def __init__(self, text: str, *, whole: bool) -> None:
        self.text = self.shown = text
        self.rest = ""
        self.gaps: list[tuple[int, str]] = []
        if _CONTROL.search(text) is None:
            return
        parts: list[str] = []
        length = end = 0
        for match in _TOGETHER.finditer(text):
            parts.append(text[end : match.start()])
            length += match.start() - end
            end = match.end()
            self.gaps.append((length, match[0]))
        last = text[end:]
        at = -1 if whole else last.find("\x1b", max(len(last) - _MAX_SEQUENCE, 0))
        while at >= 0:
            if _OPEN.match(last, at):
                last, self.rest = last[:at], last[at:]
                break
            at = last.find("\x1b", at + 1)
        parts.append(last)
        self.text = self.shown = "".join(parts)
        if "\x1b" in self.text:
            # Each part alone: a sequence that another one cuts off takes nothing behind that.
            self.text = "".join([_APART.sub(_escapes, part) for part in parts])

    def change(self, function: Callable[[str], str]) -> None:
        """Change the text within sequences that have some, such as the target of a link."""
        for number, (at, sequence) in enumerate(self.gaps):
            if sequence.startswith(_STRING):
                self.gaps[number] = (at, function(sequence))
