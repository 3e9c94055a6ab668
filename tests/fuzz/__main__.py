"""All fuzzing there is, for a bounded time: `python -m tests.fuzz [--seconds S]`.

Half of the time the model of a hub is asked (`model`), by hypothesis on several threads;
the rest is shared by the targets (`targets`), each in a process of its own, guided by the
coverage of what they run. Exits with 1 when anything was found; findings of the targets
are files in .tmp/fuzz, those of the model are printed with the steps that lead to them.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fuzz.model import HubMachine
from tests.fuzz.targets import SEEDS, TARGETS

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".tmp" / "fuzz"
HANG = 10  # seconds that one input may take
GRACE = 30  # seconds beyond its time that a target gets to end
MEMORY = 1024  # MiB


def ask_the_model(seconds: float) -> bool:
    """Run the state machine again and again; say whether it agreed with the hub."""
    deadline, rounds = time.monotonic() + seconds, 0
    briefly = settings(
        max_examples=20,
        stateful_step_count=20,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # threads do not do the same twice
        suppress_health_check=list(HealthCheck),
    )
    try:
        while time.monotonic() < deadline:
            run_state_machine_as_test(HubMachine, settings=briefly)  # type: ignore[no-untyped-call]
            rounds += 1
    except Exception as error:  # noqa: BLE001 - the finding, which hypothesis has printed
        print(f"model: {error!r}")
        return False
    print(f"model: {rounds * briefly.max_examples} runs of up to {briefly.stateful_step_count}")
    return True


def try_target(name: str, seconds: int) -> bool:
    """Fuzz one target; say whether it held."""
    corpus = WORK / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    argv = [sys.executable, "-m", "tests.fuzz.guided", name, str(corpus)]
    argv += [f"-max_total_time={seconds}", f"-timeout={HANG}", f"-rss_limit_mb={MEMORY}"]
    argv += [f"-artifact_prefix={WORK}/{name}-", "-max_len=4096", "-print_final_stats=1"]
    try:
        run = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=seconds + GRACE)
    except subprocess.TimeoutExpired:
        print(f"{name}: hangs")
        return False
    log = run.stderr.decode(errors="replace") + run.stdout.decode(errors="replace")
    executed = [line.split()[-1] for line in log.splitlines() if "number_of_executed" in line]
    print(f"{name}: {executed[0] if executed else '?'} inputs")
    if run.returncode:
        print(log[-4000:])
    return run.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (60)")
    seconds = parser.parse_args().seconds
    held = [ask_the_model(seconds / 2)]
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not for this Python: the targets are tried by the test suite alone")
    else:
        share = max(int(seconds / 2 / len(TARGETS)), 1)
        held += [try_target(name, share) for name in TARGETS]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
