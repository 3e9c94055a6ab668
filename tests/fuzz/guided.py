"""One target, guided by coverage: `python -m tests.fuzz.guided TARGET [libFuzzer options]`.

Needs atheris (`pip install 'ws-hub[fuzz]'`). A finding is printed with its traceback and
written to a file; the exit code is then 77, and 0 when the time is over without one.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["ws_hub", "wsproto"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
