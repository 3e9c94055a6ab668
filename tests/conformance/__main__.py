"""Repeats the Autobahn cases: `python -m tests.conformance [TIMES]`.

Fails when one case fails, or closes otherwise than it should, one single time. The cases
of compression, which take four minutes a run, come once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from .suite import ALL, ALL_COMPRESSED, KOSOKU, client_cases, server_cases

_TIMES = 20


def main() -> int:
    """Return how many runs had a fault, at most what an exit status holds."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else _TIMES
    if KOSOKU is None:
        print("kosoku, which drives the cases, is not installed", file=sys.stderr)
        return 2
    bad = total = 0
    for name, run, cases, count in (
        ("server", server_cases, ALL, times),
        ("client", client_cases, ALL, times),
        ("server, compression", server_cases, ALL_COMPRESSED, 1),
        ("client, compression", client_cases, ALL_COMPRESSED, 1),
    ):
        for number in range(1, count + 1):
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                faults = run(Path(folder), cases)
            bad += bool(faults)
            total += 1
            seconds = time.monotonic() - began
            print(f"{name} {number}/{count}: {len(faults)} faults, {seconds:.1f} s", flush=True)
            for case, (behaviour, close) in sorted(faults.items()):
                print(f"  {case}: {behaviour}, close {close}")
    print(f"{bad} of {total} runs with a fault")
    return min(bad, 125)


if __name__ == "__main__":
    sys.exit(main())
