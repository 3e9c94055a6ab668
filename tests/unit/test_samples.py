"""What running programs use: real processes, looked at through /proc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.interventions import looks_cost, no_look_before
from tests.programs import python
from tests.recorder import Recorder
from tests.support import TIMEOUT, wait_until
from ws_hub.config import HubConfig
from ws_hub.process.process import Process, run_process
from ws_hub.process.samples import Sampler
from ws_hub.process.usage import Usage
from ws_hub.protocol.message import Message

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/stat"), reason="needs /proc, which says what processes use"
)

MIB = 1024 * 1024
WAIT = "import signal; print('ready', flush=True); signal.pause()"
BUSY = """
    import time
    while time.process_time() < 0.3: pass
    print('ready', flush=True)
    import signal; signal.pause()
"""


def started(hub: Recorder, argv: list[str], name: str = "p", **options: object) -> Process:
    """Start a program; return it once it has printed "ready"."""
    process = run_process(hub, argv, name, **options)  # type: ignore[arg-type]
    wait_until(lambda: "ready" in hub.lines(), TIMEOUT)
    return process


def sample(process: Process, sampler: Sampler | None = None) -> Usage | None:
    """Take a sample that no look before it has the answer of."""
    no_look_before()
    return (sampler or Sampler(process.pid, 1e-6, 0.0)).take(time.monotonic())


@pytest.fixture
def sampled() -> Iterator[Recorder]:
    """A hub whose programs are sampled all the time."""
    hub = Recorder()
    hub.config = HubConfig(usage_interval=0.01)
    yield hub


def test_a_sample_has_the_time_and_the_memory_of_a_program(hub: Recorder) -> None:
    with started(hub, python(BUSY)) as process:
        found = sample(process)
        assert found is not None
        assert found.cpu_seconds >= 0.25  # the clock of /proc has a hundred ticks a second
        assert found.memory_bytes is not None
        assert found.memory_bytes > MIB
        assert found.peak_bytes == found.memory_bytes


def test_the_processes_that_a_program_has_started_count(hub: Recorder) -> None:
    code = f"""
        import subprocess, sys
        child = 'import signal; x = b"x" * {64 * MIB}; print("ready", flush=True); signal.pause()'
        for apart in (False, True):  # in the session of the program, and in one of its own
            subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=apart)
        import signal; signal.pause()
    """
    with run_process(hub, python(code), "p") as process:  # type: ignore[arg-type]
        wait_until(lambda: hub.lines().count("ready") == 2, TIMEOUT)
        found = sample(process)
        assert found is not None
        assert (found.memory_bytes or 0) > 128 * MIB


def test_the_time_of_processes_that_have_ended_counts(hub: Recorder) -> None:
    code = """
        import subprocess, sys
        busy = "import time\\nwhile time.process_time() < 0.3: pass"
        subprocess.run([sys.executable, "-S", "-c", busy], check=True)
        print("ready", flush=True)
        import signal; signal.pause()
    """
    with started(hub, python(code)) as process:
        found = sample(process)
        assert found is not None
        assert found.cpu_seconds >= 0.25


def test_a_sample_like_the_one_before_is_none(hub: Recorder) -> None:
    with started(hub, python(WAIT)) as process:
        sampler = Sampler(process.pid, 1e-6, 0.0)
        assert sample(process, sampler) is not None
        # It may still be on its way into pause().
        wait_until(lambda: sample(process, sampler) is None, TIMEOUT)


def test_nothing_is_due_without_an_interval(hub: Recorder) -> None:
    with started(hub, python(WAIT)) as process:
        sampler = Sampler(process.pid, 0, 0.0)
        assert sampler.due is None
        assert sampler.take(1e9) is None


def test_a_sample_is_not_due_before_its_time(hub: Recorder) -> None:
    with started(hub, python(WAIT)) as process:
        now = time.monotonic()
        sampler = Sampler(process.pid, 5.0, now)
        assert sampler.due == now + 5.0
        assert sampler.take(now + 4.9) is None
        assert sampler.due == now + 5.0
        sampler.take(now + 5.0)
        assert sampler.due >= now + 10.0


def test_a_program_that_is_gone_has_no_sample() -> None:
    assert Sampler(2**22 + 1, 1e-6, 0.0).take(time.monotonic()) is None


def test_looks_cost_no_more_for_many_programs_than_for_one(hub: Recorder) -> None:
    """A sample is due, but the next look at all processes has yet to come."""
    with started(hub, python(WAIT)) as process, looks_cost(1e9):
        assert sample(process) is not None
        with started(hub, python(WAIT), "other") as other:
            assert Sampler(other.pid, 1e-6, 0.0).take(time.monotonic()) is None


def test_a_look_from_before_a_program_has_started_says_nothing_of_it(hub: Recorder) -> None:
    """Its process id was another's then, here that of a program before it."""
    with started(hub, python(WAIT)) as process, looks_cost(1e9):
        assert sample(process) is not None
        now = time.monotonic()
        assert Sampler(process.pid, 1e-6, now).take(now + 1) is None


NAMESPACE = """
import os, resource, time
from ws_hub.process.samples import Sampler
from ws_hub.process.usage import PeakMemory
peak, nothing = PeakMemory(os.getpid()), resource.struct_rusage([0] * 16)
peak.look(time.monotonic())
print(os.getpid(), Sampler(os.getpid(), 1e-6, 0.0).due, peak.usage(nothing).peak_bytes)
"""


def test_nothing_is_read_from_the_proc_of_another_namespace() -> None:
    """Where process ids are of a namespace of our own, and /proc is that of the one around it."""
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("no namespaces can be made here")
    run = subprocess.run(
        [*apart, sys.executable, "-c", NAMESPACE], capture_output=True, text=True, check=False
    )
    assert run.stdout == "1 None None\n", run.stderr


def test_the_end_has_no_less_than_was_seen_before(hub: Recorder) -> None:
    with started(hub, python(BUSY)) as process:
        sampler = Sampler(process.pid, 1e-6, 0.0)
        assert sampler.complete(Usage(0.1, 5)) == Usage(0.1, 5)
        seen = sample(process, sampler)
        assert seen is not None
        assert sampler.complete(None) is None
        assert sampler.complete(Usage(0.0, None)) == Usage(seen.cpu_seconds, seen.peak_bytes)
        assert sampler.complete(Usage(9.0, 1 << 40)) == Usage(9.0, 1 << 40)


def statuses_in(recorder: Recorder) -> list[Message]:
    return [each for each in recorder.messages if each.type == "process_status"]


def test_samples_are_statuses_between_the_start_and_the_end(sampled: Recorder) -> None:
    process = run_process(sampled, python(BUSY), "p", attempt=3)  # type: ignore[arg-type]
    with process:
        wait_until(lambda: "ready" in sampled.lines(), TIMEOUT)
        wait_until(lambda: any("usage" in each.data for each in statuses_in(sampled)), TIMEOUT)
        usage = process.usage
        assert usage is not None
        assert usage.memory_bytes is not None
    statuses = [each.data for each in statuses_in(sampled)]
    first, *samples, last = statuses
    assert first == {"status": "running", "attempt": 3}
    assert last["status"] == "exited"
    assert "memoryBytes" not in last["usage"]
    assert samples
    for each in samples:
        assert each["status"] == "running"
        assert each["attempt"] == 3
        assert set(each["usage"]) == {"cpuSeconds", "memoryBytes", "peakBytes"}
    seconds = [each["usage"]["cpuSeconds"] for each in (*samples, last)]
    assert seconds == sorted(seconds)
    assert last["usage"]["peakBytes"] >= max(each["usage"]["peakBytes"] for each in samples)


def test_a_full_queue_holds_up_no_program_for_a_sample(sampled: Recorder) -> None:
    taken = []

    def full(message: object) -> None:
        if "usage" in getattr(message, "data", ()) and message.data["status"] == "running":  # type: ignore[attr-defined]
            taken.append(message)
            sampled.full = 1

    sampled.on_publish = full
    with run_process(sampled, python(BUSY), "p"):  # type: ignore[arg-type]
        wait_until(lambda: "ready" in sampled.lines() and taken, TIMEOUT)
    assert [each.data["status"] for each in statuses_in(sampled)] == [
        "running",
        "exited",
    ]


def test_a_sample_that_found_a_full_queue_is_told_later_of_a_program_that_rests(
    sampled: Recorder,
) -> None:
    refused: list[object] = []

    def full(message: Message) -> None:
        if message.type == "process_status" and "memoryBytes" in message.data.get("usage", {}):
            if refused[-2:] != [message.data] * 2:
                refused.append(message.data)
                sampled.full = 1

    sampled.on_publish = full
    with run_process(sampled, python(WAIT), "p"):  # type: ignore[arg-type]
        wait_until(lambda: any("usage" in each.data for each in statuses_in(sampled)), TIMEOUT)
    assert statuses_in(sampled)[1].data == refused[-1] == refused[-2]
