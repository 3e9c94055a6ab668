"""The Autobahn cases (without 9: limits), which kosoku drives.

An echo hub, served in this process, is the server under test; the client under test is
what a ReconnectingClient has below its JSON. Every case must pass, and close as it should.
The one deviation: a client reads a message whole before it finds that it is not UTF-8,
where it might have said so sooner (6.4).

12 and 13 are about compression, which is agreed on for them alone.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness import messages_go_to, queue_message
from ws_hub import Hub, HubConfig, ReconnectConfig, serve
from ws_hub.connection.connection import Connection
from ws_hub.errors import ConnectionClosed
from ws_hub.protocol import compression as deflate
from ws_hub.protocol.frames import binary_frame, deflated_frame, text_frame
from ws_hub.reconnect.connector import Connector

__all__ = [
    "ALL",
    "ALL_COMPRESSED",
    "KOSOKU",
    "SOME_COMPRESSED",
    "Verdicts",
    "client_cases",
    "server_cases",
]

KOSOKU = shutil.which("kosoku", path=str(Path(sys.executable).parent))

ALL = ("-x", "9.*", "-x", "12.*", "-x", "13.*")
ALL_COMPRESSED = ("-i", "12.*", "-i", "13.*")
# Short and long messages, whole and in fragments, with several kinds of offers.
_SOME = ("12.1.3", "12.2.4", "12.4.11", "13.1.3", "13.2.11", "13.4.3", "13.6.11", "13.7.4")
SOME_COMPRESSED = tuple(arg for number in _SOME for arg in ("-i", number))

_GOOD = {"OK", "INFORMATIONAL"}
# A smaller window is asked for, which we decline (RFC 7692 section 7.1.2): a server one of its
# own; a client either, by not offering it.
_DECLINED = {"server": re.compile(r"13\.[35]\."), "client": re.compile(r"13\.[3-6]\.")}
_LATE = {f"6.4.{number}": ("NON-STRICT", "OK") for number in range(1, 5)}
_TIMEOUT = 300.0
_AT_ONCE = 8  # six cases take their time, and little else
_MAX_MESSAGE = 1 << 24
_RSV1 = 0x40

Verdicts = dict[str, tuple[str, str]]  # of each case: of its messages, and of its end


def echo(client: Connection, data: str | bytes) -> None:
    """Send a message back instead of reading it as JSON."""
    content = data.encode() if isinstance(data, str) else data
    frame = text_frame(content) if isinstance(data, str) else binary_frame(data)
    if client.compression:  # always: kosoku fails on an echo that is not
        packed = deflated_frame(deflate.finish(deflate.begin(content)))
        frame = bytes([frame[0] | packed[0] & _RSV1]) + packed[1:]
    client.sender.put(frame, 10.0)


def server_cases(folder: Path, cases: Sequence[str] = ALL) -> Verdicts:
    """Run cases against a hub; return what did not go as it should."""
    config = HubConfig(
        max_message_size=_MAX_MESSAGE, compression=cases is not ALL, max_message_rate=None
    )
    with Hub(config) as hub, messages_go_to(hub, echo), serve(hub, path="/") as server:
        subprocess.run(
            [
                *(str(KOSOKU), "-m", "fuzzingclient", *cases, "-p", "2", "-o", str(folder)),
                f"{server.host}:{server.port}",
            ],
            check=cases is ALL,  # it takes a case that was declined for a fault
            timeout=_TIMEOUT,
            capture_output=True,
        )
    return _faults(folder, cases, "server")


def client_cases(folder: Path, cases: Sequence[str] = ALL) -> Verdicts:
    """Run cases against our client; return what did not go as it should."""
    command = [str(KOSOKU), "-m", "fuzzingserver", *cases, "-o", str(folder), "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as server:
        assert server.stderr is not None
        try:
            found = re.search(rb"ws://\S+", server.stderr.readline())
            assert found is not None
            url = found[0].decode()
            (count,) = _talk(f"{url}/getCaseCount", answers=False)
            urls = [f"{url}/runCase?case={n}&agent=ws_hub" for n in range(1, int(count) + 1)]
            talk = functools.partial(_talk, compression=cases is not ALL)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(talk, urls))
            _talk(f"{url}/updateReports?agent=ws_hub")
            server.wait(_TIMEOUT)
        finally:
            server.kill()
    faults = _faults(folder, cases, "client")
    return {n: each for n, each in faults.items() if _LATE.get(n) != each}


def _talk(url: str, answers: bool = True, compression: bool = False) -> list[str | bytes]:
    """Live one connection to its end; return what came in."""
    config = ReconnectConfig(url=url, max_message_size=_MAX_MESSAGE, compression=compression)
    connection = Connector(config, time.monotonic).run()
    messages: list[str | bytes] = []
    try:
        with contextlib.suppress(ConnectionClosed):
            while True:
                messages.append(connection.receive())
                if answers:
                    mark = queue_message(connection, messages[-1])
                    with contextlib.suppress(OSError):  # the end is for the next receive to tell
                        connection.flush(mark)
    finally:
        connection.finish()
    return messages


def _faults(folder: Path, selected: Sequence[str], side: str) -> Verdicts:
    (cases,) = json.loads((folder / "index.json").read_text()).values()
    expected = len(_SOME) if selected is SOME_COMPRESSED else 200
    assert len(cases) >= expected, f"only {len(cases)} cases were run"
    verdicts = {n: (case["behavior"], case["behaviorClose"]) for n, case in cases.items()}
    return {
        number: each
        for number, each in verdicts.items()
        if not _GOOD.issuperset(each)
        and not (each == ("UNIMPLEMENTED", "OK") and _DECLINED[side].match(number))
    }
