"""RFC 6455, by the Autobahn cases (without 9: limits, 12 and 13: compression).

An echo hub is run in this process; kosoku drives the case files against it. There is
no deviation to explain: every case must pass, and close as it should.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ws_hub import Client, Hub, HubConfig, serve
from ws_hub.frames import binary_frame, text_frame

KOSOKU = shutil.which("kosoku", path=str(Path(sys.executable).parent))
GOOD = {"OK", "INFORMATIONAL"}


class EchoHub(Hub):
    """Sends every message back instead of reading it as JSON."""

    def _received(self, client: Client, data: str | bytes) -> None:
        frame = text_frame(data.encode()) if isinstance(data, str) else binary_frame(data)
        client._sender.put(frame, 10.0)


@pytest.mark.skipif(KOSOKU is None, reason="kosoku, which drives the cases, is not installed")
def test_every_autobahn_case_passes_and_closes_as_it_should(tmp_path: Path) -> None:
    config = HubConfig(max_message_size=1 << 24)
    with EchoHub(config) as hub, serve(hub, path="/") as server:
        subprocess.run(
            [
                *(str(KOSOKU), "-m", "fuzzingclient", "-x", "9.*", "-x", "12.*", "-x", "13.*"),
                *("-p", "2", "-o", str(tmp_path), f"{server.host}:{server.port}"),
            ],
            check=True,
            timeout=50,
            capture_output=True,
        )
    (cases,) = json.loads((tmp_path / "index.json").read_text()).values()
    assert len(cases) > 200
    bad = {
        number: (case["behavior"], case["behaviorClose"])
        for number, case in cases.items()
        if case["behavior"] not in GOOD or case["behaviorClose"] not in GOOD
    }
    assert bad == {}
