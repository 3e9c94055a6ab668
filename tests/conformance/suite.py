"""The Autobahn cases (without 9: limits, 12 and 13: compression), which kosoku drives.

An echo hub, served in this process, is the server under test; the client under test is
what a ReconnectingClient has below its JSON. Every case must pass, and close as it should.
The one deviation: a client reads a message whole before it finds that it is not UTF-8,
where it might have said so sooner (6.4).
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from websocket import ABNF

from ws_hub import Client, Hub, HubConfig, ReconnectConfig, serve
from ws_hub.dial import Dial
from ws_hub.errors import ConnectionClosed
from ws_hub.frames import binary_frame, text_frame
from ws_hub.link import Link

__all__ = ["KOSOKU", "Verdicts", "client_cases", "server_cases"]

KOSOKU = shutil.which("kosoku", path=str(Path(sys.executable).parent))

_WITHOUT = ("-x", "9.*", "-x", "12.*", "-x", "13.*")
_GOOD = {"OK", "INFORMATIONAL"}
_LATE = {f"6.4.{number}": ("NON-STRICT", "OK") for number in range(1, 5)}
_TIMEOUT = 50.0
_AT_ONCE = 8  # six cases take their time, and little else
_MAX_MESSAGE = 1 << 24

Verdicts = dict[str, tuple[str, str]]  # of each case: of its messages, and of its end


class EchoHub(Hub):
    """Sends every message back instead of reading it as JSON."""

    def _received(self, client: Client, data: str | bytes) -> None:
        frame = text_frame(data.encode()) if isinstance(data, str) else binary_frame(data)
        client._sender.put(frame, 10.0)


def server_cases(folder: Path) -> Verdicts:
    """Run all cases against a hub; return what did not go as it should."""
    config = HubConfig(max_message_size=_MAX_MESSAGE)
    with EchoHub(config) as hub, serve(hub, path="/") as server:
        subprocess.run(
            [
                *(str(KOSOKU), "-m", "fuzzingclient", *_WITHOUT, "-p", "2", "-o", str(folder)),
                f"{server.host}:{server.port}",
            ],
            check=True,
            timeout=_TIMEOUT,
            capture_output=True,
        )
    return _faults(folder)


def client_cases(folder: Path) -> Verdicts:
    """Run all cases against our client; return what did not go as it should."""
    command = [str(KOSOKU), "-m", "fuzzingserver", *_WITHOUT, "-o", str(folder), "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as server:
        assert server.stderr is not None
        try:
            found = re.search(rb"ws://\S+", server.stderr.readline())
            assert found is not None
            url = found[0].decode()
            (count,) = _talk(f"{url}/getCaseCount", echo=False)
            urls = [f"{url}/runCase?case={n}&agent=ws_hub" for n in range(1, int(count) + 1)]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(_talk, urls))
            _talk(f"{url}/updateReports?agent=ws_hub")
            server.wait(_TIMEOUT)
        finally:
            server.kill()
    return {n: each for n, each in _faults(folder).items() if _LATE.get(n) != each}


def _talk(url: str, echo: bool = True) -> list[str | bytes]:
    """Live one connection to its end; return what came in."""
    config = ReconnectConfig(url=url, max_message_size=_MAX_MESSAGE)
    link = Dial(config, time.monotonic).run()
    messages: list[str | bytes] = []
    try:
        with contextlib.suppress(ConnectionClosed):
            while True:
                messages.append(link.receive())
                if echo:
                    _send(link, messages[-1])
    finally:
        link.finish()
    return messages


def _send(link: Link, data: str | bytes) -> None:
    if isinstance(data, str):
        mark = link.queue(data.encode())
    else:  # which a client has no need of, otherwise
        mark = link._stream.append(ABNF.create_frame(data, ABNF.OPCODE_BINARY).format())
    with contextlib.suppress(OSError):  # the end is for the next receive to tell
        link.flush(mark)


def _faults(folder: Path) -> Verdicts:
    (cases,) = json.loads((folder / "index.json").read_text()).values()
    assert len(cases) > 200, f"only {len(cases)} cases were run"
    verdicts = {n: (case["behavior"], case["behaviorClose"]) for n, case in cases.items()}
    return {number: each for number, each in verdicts.items() if not _GOOD.issuperset(each)}
