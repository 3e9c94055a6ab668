"""How a bench process is told what to do: one JSON object a line, in and out.

A request names a method of the process, `{"do": "connect", "count": 100}`, and gets one
line back: what the method returned, or `{"error": text}`. End of input ends the process,
so that none outlives its parent.
"""

from __future__ import annotations

import json
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

__all__ = ["Answer", "asked", "obey", "say"]

Answer = dict[str, Any]


def say(answer: Mapping[str, Any], output: IO[str] | None = None) -> None:
    """Write one line to the parent, to standard output unless there is another way."""
    output = output or sys.stdout
    output.write(json.dumps(answer) + "\n")
    output.flush()


def asked() -> bool:
    """Say whether the next request, or the end of the input, is there.

    For a method that works until then: nobody sends it a request before.
    """
    return bool(select.select([sys.stdin], [], [], 0)[0])


def obey(
    methods: Mapping[str, Callable[..., Answer | None]],
    requests: Iterable[str] | None = None,
    output: IO[str] | None = None,
) -> None:
    """Carry out requests until they end, those of standard input unless there are others."""
    for line in sys.stdin if requests is None else requests:
        request = json.loads(line)
        try:
            say(methods[request.pop("do")](**request) or {}, output)
        except Exception as error:  # noqa: BLE001 - the parent fails the row, and says why
            traceback.print_exc()
            say({"error": f"{type(error).__name__}: {error}"}, output)
