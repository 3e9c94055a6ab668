"""Real programs with bounds on their time, and what they have used."""

from __future__ import annotations

import os
import resource
import sys
import threading
from typing import Any

import pytest

from tests.interventions import time_is_up, was_quiet
from tests.programs import DEAF, is_alive, python
from tests.recorder import Recorder
from tests.support import TIMEOUT
from ws_hub.errors import ConfigError, HubFull
from ws_hub.process.process import Process, find_process, run_process
from ws_hub.process.usage import Usage

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

MEGABYTE = 1 << 20


def start(hub: Recorder, argv: list[str], **options: Any) -> Process:
    return run_process(hub, argv, "p", **options)  # type: ignore[arg-type]


def running(hub: Recorder) -> Process:
    """Return the program, also while its start has yet to return."""
    process = find_process(hub, "p")  # type: ignore[arg-type]
    assert process is not None
    return process


def start_and_time_out(hub: Recorder, argv: list[str], **options: Any) -> Process:
    """Start a program whose timeout is over when it has printed its first line."""
    hub.on_publish = lambda message: message.type == "process_output" and time_is_up(running(hub))
    return start(hub, argv, timeout=4 * TIMEOUT, **options)


def our_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def last(hub: Recorder) -> dict[str, Any]:
    return list(hub.statuses())[-1]


@pytest.mark.parametrize("pty", [False, True])
def test_a_program_is_ended_at_its_timeout_and_its_status_says_so(hub: Recorder, pty: bool) -> None:
    process = start(hub, ["sh", "-c", "echo begun; sleep 60"], timeout=0.2, pty=pty)
    assert process.wait(TIMEOUT) == -15
    assert process.reason == "timeout"
    assert last(hub) == {
        "status": "exited", "exitCode": -15, "signal": "SIGTERM", "reason": "timeout",
    }  # fmt: skip


def test_a_program_that_handles_sigterm_ends_with_its_own_code_and_the_reason(
    hub: Recorder,
) -> None:
    code = """
        import signal, sys
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        print("begun", flush=True)
        signal.sigwait([signal.SIGTERM])
        print("tidy")
        sys.exit(7)
    """
    assert start_and_time_out(hub, python(code)).wait(TIMEOUT) == 7
    assert hub.lines() == ["begun", "tidy"]
    assert last(hub) == {"status": "exited", "exitCode": 7, "reason": "timeout"}


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(hub: Recorder) -> None:
    process = start_and_time_out(hub, python(DEAF), grace=0.1)
    assert process.wait(TIMEOUT) == -9
    assert last(hub)["reason"] == "timeout"
    assert hub.lines() == ["deaf"]


def test_all_that_it_has_started_ends_at_the_timeout(hub: Recorder) -> None:
    code = "set -m; sleep 300 & echo $!; wait"
    process = start_and_time_out(hub, ["bash", "-c", code], grace=1.0)
    process.wait(TIMEOUT)
    assert not is_alive(int(hub.lines()[0]))


def test_a_program_without_output_is_ended_at_its_idle_timeout(hub: Recorder) -> None:
    process = start(hub, ["sh", "-c", "echo begun; sleep 60"], timeout=60, idle_timeout=0.2)
    assert process.wait(TIMEOUT) == -15
    assert process.reason == "idle_timeout"
    assert last(hub)["reason"] == "idle_timeout"


def test_output_postpones_the_idle_timeout(hub: Recorder) -> None:
    # Longer in all than the bound, in steps that are far shorter.
    code = "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.3; done"
    process = start(hub, ["sh", "-c", code], idle_timeout=2.0)
    assert process.wait(TIMEOUT) == 0
    assert process.reason == ""


def test_a_program_that_waits_for_the_hub_is_not_idle(hub: Recorder) -> None:
    waits, taken = 0, threading.Event()

    def refuse(message: Any) -> None:
        nonlocal waits
        if message.data == "x" and waits < 3:
            waits += 1
            was_quiet(running(hub), 10 * TIMEOUT)
            raise HubFull("full")
        if message.data == "x":
            taken.set()

    hub.on_publish = refuse
    with start(hub, ["sh", "-c", "echo x; sleep 60"], idle_timeout=4 * TIMEOUT) as process:
        assert taken.wait(TIMEOUT)
    assert waits == 3
    assert hub.lines() == ["x"]
    assert process.reason == ""


def test_a_timeout_ends_a_program_that_waits_for_the_hub(hub: Recorder) -> None:
    def refuse(message: Any) -> None:
        if message.data == "y" and running(hub).reason == "":
            time_is_up(running(hub))
            raise HubFull("full")

    hub.on_publish = refuse
    process = start(hub, ["sh", "-c", "echo y; sleep 60"], timeout=4 * TIMEOUT)
    assert process.wait(TIMEOUT) == -15
    assert last(hub)["reason"] == "timeout"
    assert hub.lines() == ["y"]


def test_a_program_that_has_ended_is_not_timed_out_while_others_hold_its_pipe(
    hub: Recorder,
) -> None:
    process = start(hub, ["sh", "-c", "sleep 1.5 & exit 3"], timeout=0.2)
    assert process.wait(TIMEOUT) == 3
    assert process.reason in ("", "timeout")  # the start alone may take the time
    if not process.reason:
        assert last(hub) == {"status": "exited", "exitCode": 3}


def test_close_waits_for_the_grace(hub: Recorder) -> None:
    shown = threading.Event()
    hub.on_publish = lambda message: message.data == "deaf" and shown.set()
    with start(hub, python(DEAF), grace=0.1) as process:
        assert shown.wait(TIMEOUT)
    assert process.wait(TIMEOUT) == -9
    assert process.reason == ""
    assert "reason" not in last(hub)


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"idle_timeout": -1}, {"grace": "2"}, {"attempt": 0}]
)
def test_a_bad_bound_is_refused_before_anything_starts(hub: Recorder, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} must be "):
        start(hub, ["touch", "/nowhere"], **wrong)
    assert hub.messages == []


def test_each_status_says_the_attempt(hub: Recorder) -> None:
    start(hub, ["false"], attempt=1).wait(TIMEOUT)
    start(hub, ["true"], attempt=2).wait(TIMEOUT)
    with pytest.raises(OSError, match="cannot start"):
        start(hub, ["/no/such/program"], attempt=3)
    statuses = list(hub.statuses())
    assert [each.get("attempt") for each in statuses] == [1, 1, 2, 2, 3]
    assert statuses[-1]["status"] == "failed"


# --- usage ---------------------------------------------------------------------------------


def test_the_status_says_what_the_program_has_used(hub: Recorder) -> None:
    more = our_peak() + 100 * MEGABYTE
    code = f"x = bytearray({more}); print(len(x)); sum(range(3_000_000))"
    process = start(hub, python(code))
    process.wait(TIMEOUT)
    usage = process.usage
    assert usage is not None
    assert usage.cpu_seconds > 0.01
    assert usage.peak_bytes is not None
    assert more < usage.peak_bytes < more + 100 * MEGABYTE
    assert hub.messages[-1].data["usage"] == {
        "cpuSeconds": usage.cpu_seconds,
        "peakBytes": usage.peak_bytes,
    }


def test_the_memory_of_a_small_program_is_not_that_of_ours(hub: Recorder) -> None:
    ours = bytearray(200 * MEGABYTE)
    ours[::4096] = b"x" * len(ours[::4096])  # all of it is in memory
    process = start(hub, ["sh", "-c", "echo begun; sleep 0.2"])
    process.wait(TIMEOUT)
    assert process.usage is not None
    if os.path.isdir("/proc/self"):
        assert process.usage.peak_bytes is not None
        assert process.usage.peak_bytes < 100 * MEGABYTE
    del ours


def test_what_a_program_has_waited_for_counts_as_its_own(hub: Recorder) -> None:
    more = our_peak() + 100 * MEGABYTE  # a smaller peak would be ours
    inner = f"x = bytearray({more}); sum(range(3_000_000))"
    process = start(hub, ["sh", "-c", f'{sys.executable} -S -c "{inner}"; echo done'])
    process.wait(TIMEOUT)
    assert process.usage is not None
    assert process.usage.cpu_seconds > 0.01
    assert process.usage.peak_bytes is not None
    assert process.usage.peak_bytes > more


def test_a_program_that_other_code_has_reaped_has_no_usage(
    hub: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(pid: int, options: int) -> Any:
        os.waitpid(pid, 0)  # by code that is faster
        raise ChildProcessError

    process = start(hub, ["sh", "-c", "read x; exit 3"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "wait4", taken)
        assert process.wait(TIMEOUT) == 3
    assert process.usage is None
    assert hub.messages[-1].data == {"status": "exited", "exitCode": 3}


def test_without_pidfd_the_usage_is_known_too(
    hub: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    process = start(hub, ["true"])
    assert process.wait(TIMEOUT) == 0
    assert isinstance(process.usage, Usage)
    monkeypatch.delattr(os, "waitid")
    process = start(hub, ["true"])
    assert process.wait(TIMEOUT) == 0
    assert isinstance(process.usage, Usage)
