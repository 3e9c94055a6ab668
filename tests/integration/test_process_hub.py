"""Programs streamed to real WebSocket clients, early and late ones."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.integration.apps.live import live
from tests.integration.clients import is_inside
from tests.programs import python
from tests.support import TIMEOUT, RawPeer, wait_until, without_usage
from ws_hub.config import ChannelRule, HubConfig
from ws_hub.connection.connection import Connection
from ws_hub.hub.hub import Hub
from ws_hub.lines import REPLACED, join
from ws_hub.process.process import Process, run_process
from ws_hub.server.server import Server, serve

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")

LONG = 30  # seconds: for streams of many lines on a busy machine


@pytest.fixture
def server() -> Iterator[Server]:
    # What a program uses has no number, and is told after five seconds, if it takes so long.
    with Hub(HubConfig(usage_interval=0)) as hub, serve(hub) as made:
        made.hub = hub  # type: ignore[attr-defined] # for the tests' convenience
        yield made


@pytest.fixture
def hub(server: Server) -> Hub:
    return server.hub  # type: ignore[attr-defined, no-any-return]


class Viewer:
    """A client of one process channel that catches up when it is told that it lags."""

    def __init__(self, socket: ClientConnection, process_id: str) -> None:
        self.socket = socket
        self.channel = f"process:{process_id}"
        self.messages: list[dict[str, Any]] = []
        self.acks: list[dict[str, Any]] = []
        self.gaps: list[dict[str, Any]] = []
        self._pending: list[dict[str, Any]] = []
        self.subscribe(since=0)

    def subscribe(self, **position: Any) -> None:
        request = {"type": "subscribe", "channel": self.channel, "data": self.channel, "id": 1}
        self.socket.send(json.dumps({**request, **position}))

    def next(self, timeout: float = TIMEOUT) -> dict[str, Any]:
        while not self._pending:
            text = self.socket.recv(timeout)
            assert isinstance(text, str)
            self._pending = [json.loads(part) for part in text.split("\n")]
        return self._pending.pop(0)

    def until_subscribed(self) -> None:
        message = self.next()
        assert message["type"] == "ack", message
        self.acks.append(message["data"])

    def until_over(self, timeout: float = TIMEOUT) -> Viewer:
        """Read up to the process's last word."""
        while True:
            message = self.next(timeout)
            if message["type"] == "ack":
                self.acks.append(message["data"])
            elif message["type"] == "lagged":
                self.subscribe(since=message["seq"], epoch=self.acks[0]["epoch"])
            elif message["type"] in ("process_output", "process_status"):
                self.messages.append(message)
                if message["type"] == "process_status" and message["data"]["status"] != "running":
                    return self
            elif message["type"] == "history_gap":
                self.gaps.append(message["data"])
            else:
                raise AssertionError(message)

    def until_output(self) -> None:
        while True:
            message = self.next()
            if message["type"] == "ack":
                self.acks.append(message["data"])
                continue
            self.messages.append(message)
            if message["type"] == "process_output":
                return

    @property
    def texts(self) -> list[str]:
        return [m["data"] for m in self.messages if m["type"] == "process_output"]

    @property
    def lines(self) -> list[str]:
        return list(join(self.texts))

    @property
    def last(self) -> Any:
        return without_usage(self.messages[-1]["data"])


@contextlib.contextmanager
def viewer(server: Server, process_id: str) -> Iterator[Viewer]:
    with connect(
        server.url, compression=None, max_size=None, proxy=None, close_timeout=0.2
    ) as socket:
        yield Viewer(socket, process_id)


def test_a_viewer_sees_running_each_line_and_exited(server: Server, hub: Hub) -> None:
    with viewer(server, "p") as early:
        process = hub.run_process(python("print('a'); print('b'); raise SystemExit(3)"), "p")
        early.until_over()
        assert process.wait(TIMEOUT) == 3
    assert early.messages[0]["data"] == {"status": "running"}
    assert early.lines == ["a", "b"]
    assert early.last == {"status": "exited", "exitCode": 3}
    assert [m["seq"] for m in early.messages] == [1, 2, 3, 4]
    assert {m["processId"] for m in early.messages} == {"p"}


def test_a_viewer_that_opens_after_the_end_gets_the_output(server: Server, hub: Hub) -> None:
    hub.run_process(["seq", "3000"], "p").wait(LONG)
    with viewer(server, "p") as late:
        late.until_over()
    assert late.lines == [str(number) for number in range(1, 3001)]
    assert late.last == {"status": "exited", "exitCode": 0}


def test_viewers_that_open_while_it_prints_get_each_line_once_in_order(
    server: Server, hub: Hub
) -> None:
    process = hub.run_process(python("for n in range(9000): print(n, flush=True)"), "p")
    for _ in range(8):
        with viewer(server, "p") as each:
            each.until_over(LONG)
        assert each.lines == [str(number) for number in range(9000)]
        assert [m["seq"] for m in each.messages] == list(range(1, len(each.messages) + 1))
    assert process.wait(LONG) == 0


def test_many_lines_keep_memory_bounded_and_a_late_viewer_gets_beginning_and_end(
    server: Server, hub: Hub
) -> None:
    assert hub.run_process(["seq", "60000"], "p").wait(LONG) == 0
    with viewer(server, "p") as late:
        late.until_over(LONG)
    (gap,) = late.gaps
    kept = [*range(1, gap["after"]), *range(gap["after"] + gap["messages"], 60_001)]
    assert late.lines == [str(number) for number in kept]  # message 1 is the status
    assert 3_900_000 < sum(len(json.dumps(each)) for each in late.messages) < 5_000_000
    assert not late.acks[0]["recovered"]


def test_a_watching_viewer_misses_nothing_of_many_lines(server: Server, hub: Hub) -> None:
    with viewer(server, "p") as each:
        process = hub.run_process(["seq", "30000"], "p")
        each.until_over(LONG)
        process.wait(LONG)
    seqs = [m["seq"] for m in each.messages]
    assert seqs == sorted(set(seqs))
    if all(ack["recovered"] for ack in each.acks):
        assert each.lines == [str(number) for number in range(1, 30_001)]


def test_colours_of_a_terminal_arrive(server: Server, hub: Hub) -> None:
    argv = ["sh", "-c", r"test -t 1 && printf '\033[32mok\033[0m\n'"]
    hub.run_process(argv, "p", pty=True).wait(TIMEOUT)
    with viewer(server, "p") as late:
        late.until_over()
    assert late.lines == ["\x1b[32mok\x1b[0m"]


@pytest.mark.parametrize("pty", [False, True])
def test_a_progress_line_arrives_state_by_state(server: Server, hub: Hub, pty: bool) -> None:
    with viewer(server, "p") as each:
        each.until_subscribed()  # to one that comes later, only the last state is shown
        hub.run_process(["printf", r"10%%\r20%%\r30%%\n"], "p", pty=pty).wait(TIMEOUT)
        each.until_over()
    with viewer(server, "p") as late:
        late.until_over()
    assert each.texts == ["10%\r", "20%\r", "30%"]
    assert late.texts == ["30%"]


def test_a_prompt_arrives_while_the_program_waits(server: Server, hub: Hub) -> None:
    code = "import signal;print('Continue? ',end='',flush=True);signal.pause()"
    with viewer(server, "p") as each, run_process(hub, python(code), "p"):
        each.until_output()
    assert each.texts == ["Continue? \r"]


def test_a_line_of_ten_megabytes_arrives_whole_in_small_frames(server: Server, hub: Hub) -> None:
    rules = [ChannelRule(pattern="process:*", history_messages=10_000, history_bytes=1 << 24)]
    with Hub(HubConfig(rules=rules, usage_interval=0)) as roomy, serve(roomy) as other:
        roomy.run_process(python("print('é' * 5_000_000)"), "p").wait(LONG)
        with viewer(other, "p") as late:
            late.until_over(LONG)
    assert late.lines == ["é" * 5_000_000]
    assert all(len(json.dumps(m)) < 65_536 for m in late.messages)


def test_undecodable_bytes_arrive_replaced(server: Server, hub: Hub) -> None:
    hub.run_process(["printf", r"a\377\000b\n"], "p").wait(TIMEOUT)
    with viewer(server, "p") as late:
        late.until_over()
    assert late.lines == ["a\ufffd\x00b"]


def test_a_viewer_learns_which_signal_ended_it(server: Server, hub: Hub) -> None:
    process = hub.run_process(["sleep", "60"], "p")
    with viewer(server, "p") as each:
        process.kill()
        each.until_over()
    assert each.last == {"status": "exited", "exitCode": -9, "signal": "SIGKILL"}
    assert process.wait(TIMEOUT) == -9


def test_a_viewer_learns_why_it_could_not_start(server: Server, hub: Hub) -> None:
    with viewer(server, "p") as each:
        with pytest.raises(OSError, match="no-such"):
            hub.run_process(["no-such-program"], "p")
        each.until_over()
    assert each.last["status"] == "failed"
    assert "no-such-program" in each.last["error"]


def test_viewers_get_exited_when_the_hub_stops(server: Server, hub: Hub) -> None:
    process = hub.run_process(["sh", "-c", "echo up; sleep 60"], "p")
    with viewer(server, "p") as each:
        each.until_output()
        hub.stop()
        each.until_over()
    assert each.last == {"status": "exited", "exitCode": -15, "signal": "SIGTERM"}
    assert process.returncode == -15


def test_a_child_that_prints_for_ever_is_ended_with_the_hub() -> None:
    with Hub() as hub:
        process = hub.run_process(["yes"], "p")
    assert process.wait(TIMEOUT) in (-signal.SIGTERM, -signal.SIGKILL)


def test_a_viewer_that_never_reads_delays_neither_program_nor_viewers(
    server: Server, hub: Hub
) -> None:
    with viewer(server, "p"), viewer(server, "p") as reader:  # the first never reads
        process = hub.run_process(["seq", "20000"], "p")
        reader.until_over(LONG)
        assert process.wait(TIMEOUT) == 0
    assert reader.lines[-1] == "20000"
    assert reader.last == {"status": "exited", "exitCode": 0}


# --- backpressure --------------------------------------------------------------------------


def is_line(message: dict[str, Any]) -> bool:
    """Say whether a message is a line of output, and not a state of one that will be replaced.

    On a busy machine the stream may see half of a line and pause: it shows that half first.
    """
    return message["type"] == "process_output" and not message["data"].endswith(REPLACED)


def outputs(peer: RawPeer) -> Iterator[str]:
    """Read the lines of a process's output to its end; fail where something was skipped."""
    while True:
        message = peer.recv_json()
        assert message["type"] in ("process_output", "process_status"), message
        if is_line(message):
            yield message["data"]
        elif message["type"] == "process_status" and message["data"]["status"] != "running":
            return


@pytest.mark.parametrize(
    ("settings", "count"),
    [({}, 20_000), ({"outbox_messages": 40}, 6_000), ({"outbox_bytes": 4096}, 6_000)],
    ids=["defaults", "few messages", "few bytes"],
)
def test_with_backpressure_a_slow_viewer_slows_the_program_and_skips_nothing(
    settings: dict[str, Any], count: int
) -> None:
    with live(**settings) as site, site.subscribed("process:p", rcvbuf=4096) as slow:
        line = "x" * 1000  # so many are more than the kernel and half of an outbox hold
        process = site.hub.run_process(
            ["sh", "-c", f"yes {line} | head -n {count}"], "p", backpressure=True
        )
        lines = outputs(slow)
        assert next(lines) == line
        wait_until(lambda: waits_for_room(process), LONG, what="a stream that waits for its viewer")
        assert process.returncode is None
        assert list(lines) == [line] * (count - 1)
        assert process.wait(LONG) == 0
        assert site.hub.stats().dropped == 0


def test_fault_115_half_of_a_line_is_shown_and_not_counted(tmp_path: Path) -> None:
    fifo = tmp_path / "go on"
    os.mkfifo(fifo)
    with live() as site, site.subscribed("process:p") as peer:
        argv = ["sh", "-c", f"printf ab; read _ < '{fifo}'; echo cd"]
        process = site.hub.run_process(argv, "p", backpressure=True)
        half = next(m for m in iter(peer.recv_json, None) if m["type"] == "process_output")
        assert half["data"] == "ab\r" and not is_line(half)
        fifo.write_text("\n")
        assert list(outputs(peer)) == ["abcd"]
        assert process.wait(TIMEOUT) == 0


COUNTS = """BEGIN { x = sprintf("%990s", ""); for (n = 1; ; n++) printf("%08d%s.\\n", n, x) }"""


def test_a_slow_viewer_of_many_programs_skips_nothing_of_any() -> None:
    """The programs count without an end: the kernel may take as much as it likes."""
    ids = [f"p{number}" for number in range(6)]
    seen, over = dict.fromkeys(ids, 0), set[str]()
    with live(outbox_messages=48) as site, site.subscribed("process:p0", rcvbuf=4096) as slow:
        for name in ids[1:]:
            slow.send_json({"type": "subscribe", "channel": f"process:{name}", "id": name})
            assert slow.recv_json()["type"] == "ack"
        processes = [site.hub.run_process(["awk", COUNTS], name, backpressure=True) for name in ids]
        (client,) = site.hub.all_clients()

        def read() -> None:
            message = slow.recv_json()
            name = message["processId"]
            if message["type"] == "process_status":
                if message["data"]["status"] != "running":
                    over.add(name)
            elif is_line(message) and message["data"].endswith("."):  # not cut by the end
                seen[name] += 1
                assert int(message["data"][:8]) == seen[name], "a line is missing"

        for _ in range(3):
            wait_until(lambda: all(map(waits_for_room, processes)), what="all to wait")
            assert site.hub.stats().dropped == 0
            # No further: all of them see the room at the same moment, and nobody reads.
            while client.waiting[0] > 24:
                read()
        for process in processes:
            process.terminate()
        while len(over) < len(ids):
            read()
        assert min(seen.values()) > 0
        assert site.hub.stats().dropped == 0
        for process in processes:
            assert process.wait(LONG) is not None


def waits_for_room(process: Process) -> bool:
    thread = f"ws-hub:process:{process.process_id}"
    return is_inside(thread, Hub.wait_for_room, Connection.wait_for_room)


def test_without_a_viewer_backpressure_slows_nothing(server: Server, hub: Hub) -> None:
    process = hub.run_process(["seq", "20000"], "p", backpressure=True)
    assert process.wait(LONG) == 0
    wait_until(lambda: hub.stats().published >= 20_002, what="all of it published")


def test_a_viewer_that_reads_nothing_is_disconnected_and_the_program_goes_on() -> None:
    with live(write_timeout=0.3) as site, site.subscribed("process:p", rcvbuf=4096):
        process = site.hub.run_process(["seq", "80000"], "p", backpressure=True)
        assert process.wait(LONG) == 0
        site.empty()


def test_a_hub_that_stops_does_not_wait_for_a_viewer_for_long() -> None:
    with live(close_timeout=0.2) as site, site.subscribed("process:p", rcvbuf=4096):
        process = site.hub.run_process(["yes"], "p", backpressure=True)
        wait_until(lambda: waits_for_room(process), what="a stream that waits for its viewer")
        site.hub.stop()
        assert process.returncode in (-signal.SIGTERM, -signal.SIGKILL)


def test_output_before_the_end_arrives_at_the_viewers_pace() -> None:
    with live() as site, site.subscribed("process:p", rcvbuf=4096) as slow:
        process = site.hub.run_process(["yes"], "p", backpressure=True)
        wait_until(lambda: waits_for_room(process), what="a stream that waits for its viewer")
        process.terminate()
        assert set(outputs(slow)) == {"y"}
        assert process.wait(TIMEOUT) == -signal.SIGTERM
        assert site.hub.stats().dropped == 0


def test_log_records_reach_a_client(server: Server, hub: Hub) -> None:
    logger = logging.getLogger("shop.integration")
    handler = hub.log_handler("logs")
    logger.addHandler(handler)
    try:
        with connect(server.url, proxy=None) as socket:
            socket.send(json.dumps({"type": "subscribe", "channel": "logs", "id": 1}))
            assert json.loads(socket.recv(TIMEOUT))["type"] == "ack"
            logger.error("order %d", 7)
            message = json.loads(socket.recv(TIMEOUT))
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert message["type"] == "event"
    assert message["data"]["event"] == "log"
    assert message["data"]["data"]["message"] == "order 7"


def test_prints_of_many_threads_reach_a_late_viewer_whole(server: Server, hub: Hub) -> None:
    def work(name: str) -> None:
        for number in range(200):
            print(name, number, file=file)

    with hub.writer("p") as file:
        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
    hub.send_process_status("p", "exited", 0)
    with viewer(server, "p") as late:
        late.until_over()
    for name in "abcd":
        mine = [line for line in late.lines if line.startswith(name)]
        assert mine == [f"{name} {number}" for number in range(200)]
