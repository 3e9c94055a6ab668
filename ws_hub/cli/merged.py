"""The output of several programs as one: in the terminal and in a channel, with their names."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import HubFull, HubNotRunning
from ..hub.hub import Hub
from ..lines import GOES_ON, REPLACED
from .terminal import Screen, plain_text

__all__ = ["COLOURS", "Merged"]

COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # of SGR; red is for what fails
_OUTPUT, _NOTE = "|", "*"  # between the name and what the program, or the command, says


class Merged:
    """Shows the finished lines of several programs, each behind its program's name.

    A line of more than 8,192 characters is several.

    Args:
        hub: the hub that has the channel.
        process_id: names the channel.
        names: the programs, which get colours in this order.
        screen: the terminal or file.
        colour: colour the names in the terminal, and pass on the programs' colours.

    Threads: any, those of the programs among them; waits while the hub's queue is full, and while
    the output is not read.
    """

    def __init__(
        self, hub: Hub, process_id: str, names: Sequence[str], screen: Screen, *, colour: bool
    ) -> None:
        self._hub = hub
        self._process_id = process_id
        self._screen = screen
        self._colour = colour
        self.width = max(map(len, names), default=0)
        self._colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)}

    @property
    def indent(self) -> int:
        """How many columns stand before a program's own text."""
        return self.width + len(f" {_OUTPUT} ")

    def text(self, name: str, text: str) -> None:
        """Show a text of a program's output, unless it will be replaced."""
        if not text.endswith(REPLACED):
            self._show(name, _OUTPUT, text.removesuffix(GOES_ON))

    def note(self, name: str, text: str) -> None:
        """Show what becomes of a program; the name may be "" for all of them."""
        self._show(name, _NOTE, text)

    def _show(self, name: str, mark: str, text: str) -> None:
        head = f"{name:<{self.width}} {mark}"
        line = f"\x1b[{self._colours.get(name, 1)}m{head}\x1b[0m {text}"
        self._screen.line(line if self._colour else plain_text(line))
        while True:
            try:
                self._hub.send_process_output(self._process_id, line)
                return
            except HubFull:  # again: no line of a program is dropped
                continue
            except HubNotRunning:
                return
