"""The rules that hold for every test: nothing is left behind, and nothing outside is asked.

After each test the same threads, open descriptors and child processes are there as
before it. What session fixtures have made by then is there before, and so is allowed;
`@pytest.mark.leaves(threads=[...], files=[...], why="...")` lists by regular expression
what one test may leave.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.interventions import other_ring, ring_from
from ws_hub.connection.ring import Ring, Unavailable
from ws_hub.testing import assert_no_leaks

_INHERITED = (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ws_proxy", "wss_proxy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--switchinterval",
        type=float,
        default=None,
        metavar="SECONDS",
        help="sys.setswitchinterval for the whole run: 1e-6 shakes races loose",
    )
    parser.addoption(
        "--io-uring",
        choices=["every", "never"],
        default=None,
        help="have every broadcast, also one to few clients, be sent by io_uring, or none",
    )
    parser.addoption(
        "--leak-timeout",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long threads, sockets and children get to end by themselves (10)",
    )


def pytest_configure(config: pytest.Config) -> None:
    interval = config.getoption("--switchinterval")
    if interval is not None:
        sys.setswitchinterval(interval)
    if config.getoption("--io-uring") is not None:
        ring_from(1 if config.getoption("--io-uring") == "every" else sys.maxsize)
    for name in _PROXIES:  # subprocesses inherit it
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    # Where it is set, print() writes a line and its end one by one, and a program that is slow
    # between the two has a part of a line published, which counts as a message more.
    os.environ.pop("PYTHONUNBUFFERED", None)
    # How long an example takes says nothing on a machine that is busy.
    hypothesis.settings.register_profile(
        "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("suite")
    # What `nohup make test &` ignores, subprocesses would inherit as ignored.
    for number, handler in _INHERITED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


# What `make test-fast` leaves out: modules whose tests run servers, programs and whole runs in
# processes of their own, or look for what nobody meant. A single test is marked where it stands.
_SLOW = re.compile(
    r"tests/(browser|conformance|fuzz)/|tests/test_(bench|bench_attack|bench_scale|checks|packaging|snippets|soak)\.py"
    r"|tests/faults/test_(table|faults_(client|limits|programs))\.py"
    r"|tests/integration/test_(?!hub_end_to_end|flask|compression)"
)


def _path(node: pytest.Item | pytest.Module) -> str:
    """Return a module's path in the project; of a test's own tests it is absolute."""
    return node.path.as_posix().removeprefix(f"{node.config.rootpath.as_posix()}/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The processes that share the tests must all find the same ones.
        assert " at 0x" not in item.nodeid, item.nodeid
        if _SLOW.match(_path(item)):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Leave what stays to the end out of collections: the leak check collects after many tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have lone surrogates in what was captured written as escapes.

    A report goes from the process that ran the test to another, in UTF-8.
    """
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


# --- the leak check ------------------------------------------------------------------------


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Have threads switch as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread, a descriptor or a child process."""
    marker = request.node.get_closest_marker("leaves")
    allowed = marker.kwargs if marker is not None else {}
    with assert_no_leaks(
        request.config.getoption("--leak-timeout"),
        threads=allowed.get("threads", ()),
        files=allowed.get("files", ()),
    ):
        yield


# --- processes ---------------------------------------------------------------------------------


# What the processes run that these modules start counts for coverage. Measuring doubles the time
# of a process, and what all others run is run in the tests' own process as well.
_MEASURED = re.compile(r"tests/(integration/test_(cli|gunicorn)|faults/test_faults_programs)\.py")


# What these tests run does not count for coverage: others run the same once, these a thousand
# times, with random data, with a browser or at full speed, or they look at files. Measuring more
# than doubles the time of Python code, of the tests' own as well.
_REPEATED = re.compile(
    r"tests/(browser|chaos|conformance|fuzz)/|tests/test_\w+\.py"
    r"|tests/unit/test_screens\.py::test_rows_of_a_recording"
    r"|tests/unit/test_log_file\.py::test_(random|the_log_of_a_recorded|a_full_disk|a_line_without)"
    r"|tests/unit/test_frames\.py::test_a_close_frame_of_any"
    r"|tests/unit/test_json_text\.py::test_orjson_and"
    r"|tests/unit/test_mask_fuzz\.py|tests/unit/test_mask\.py::test_a(ll_places|_secret_is_found_any)"
    r"|tests/unit/test_message\.py::test_(every_message|any_value|a_joined|an_encoded)"
    r"|tests/unit/test_notices\.py::test_a_stream_may_arrive"
    r"|tests/unit/test_recent_keys\.py::test_the_number_and_the_bytes"
    r"|tests/unit/test_sender\.py::test_every_frame_arrives"
    r"|tests/unit/test_stores\.py::test_a_store_keeps_what_the_model"
    r"|tests/unit/test_viewer\.py::test_fault_128"
    r"|tests/unit/test_reconnect_subscriptions_model\.py"
    r"|tests/integration/test_middle\.py::test_(the_bounds|a_million|a_client_that|a_viewer_that_is_over)"
    r"|tests/integration/test_history_store\.py::test_reading_many"
    r"|tests/integration/test_shared_control\.py::test_lost_notices"
    r"|tests/integration/test_shared_history\.py::test_(more_than_one|two_processes_that)"
    r"|tests/integration/test_process_hub\.py::test_(a_watching|a_line_of_ten|a_slow_viewer)"
    r"|tests/integration/test_process_hub\.py::test_(many_lines|with_backpr|viewers_that_open|output_b)"
    r"|tests/integration/test_process_logs\.py::test_(lines_are_re|a_search_f)\w+\[(sqlite|history)"
    r"|tests/integration/test_process_logs\.py::test_(a_large_log|a_longer_log|a_digest_names)"
    r"|tests/integration/test_publisher_life\.py::test_publishers_that_are_dropped"
    r"|tests/integration/test_(cycles|late_viewer|slow_viewers|latency|node_\w+|features_together)\.py"
    r"|tests/faults/test_faults_client\.py::test_fault_17"
    r"|tests/faults/test_faults_life\.py::test_fault_63_ten_thousand"
    r"|tests/faults/test_faults_limits\.py::test_fault_19_44_a_hundred"
    r"|tests/faults/test_faults_replay\.py::test_fault_120_histories_report"
    r"|tests/faults/test_faults_sentinel\.py::test_fault_46_a_fail_over_that_is_asked"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test that repeats what others run without measuring."""
    if not _REPEATED.match(item.nodeid):
        return (yield)
    tracer, of_threads = sys.gettrace(), threading.gettrace()
    threading.settrace(None)  # type: ignore[arg-type]
    sys.settrace(None)
    try:
        return (yield)
    finally:
        threading.settrace(of_threads)  # type: ignore[arg-type]
        sys.settrace(tracer)


@pytest.fixture(scope="module", autouse=True)
def processes_unmeasured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the processes that a module's tests start not be measured, unless it is one of those."""
    if _MEASURED.match(_path(request.node)):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if "COVERAGE" in name]:
            patch.delenv(name)
        yield


# --- io_uring ------------------------------------------------------------------------------


@pytest.fixture
def ring() -> Iterator[Ring]:
    """One that is open; the test is skipped where the system has none."""
    made = Ring()
    try:
        made.open()
    except Unavailable as error:
        if _any_process_may():
            raise
        pytest.skip(str(error))
    with contextlib.closing(made), other_ring("_FEW", 32):  # the run may have another
        yield made


def _any_process_may() -> bool:
    """Return whether this system says that any process may use io_uring."""
    try:
        disabled = Path("/proc/sys/kernel/io_uring_disabled").read_text(encoding="ascii")
        status = Path("/proc/thread-self/status").read_text(encoding="ascii")
    except OSError:  # not Linux, or one before 6.6
        return False
    return disabled.strip() == "0" and "\nSeccomp:\t0\n" in status


# --- TLS -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for `localhost` alone, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    path = folder / "localhost.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(folder / "key"), "-out", str(folder / "cert")),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    path.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return path
