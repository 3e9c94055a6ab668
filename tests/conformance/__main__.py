"""Repeats the Autobahn cases: `python -m tests.conformance [TIMES]`.

Fails when one case fails, or closes otherwise than it should, one single time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from .suite import KOSOKU, client_cases, server_cases

_TIMES = 20


def main() -> int:
    """Return how many runs had a fault, at most what an exit status holds."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else _TIMES
    if KOSOKU is None:
        print("kosoku, which drives the cases, is not installed", file=sys.stderr)
        return 2
    bad = 0
    for name, run in (("server", server_cases), ("client", client_cases)):
        for number in range(1, times + 1):
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                faults = run(Path(folder))
            bad += bool(faults)
            seconds = time.monotonic() - began
            print(f"{name} {number}/{times}: {len(faults)} faults, {seconds:.1f} s")
            for case, (behaviour, close) in sorted(faults.items()):
                print(f"  {case}: {behaviour}, close {close}")
    print(f"{bad} of {2 * times} runs with a fault")
    return min(bad, 125)


if __name__ == "__main__":
    sys.exit(main())
