"""What Go hubs publish on a server, byte for byte, as Go 1.19's encoding/json wrote it.

`tests/integration/apps/go_bridge.go` makes them anew, and test_go_bridge.py compares where Go is
installed.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

__all__ = ["CAPTURES", "GO_SOURCE", "Capture"]

GO_SOURCE = "5f2c8a7d9e4b1c0630d7a8f1e2b3c4d5"
_LOCAL = "2026-02-20T02:17:56.123456789+01:00"  # a Go host's local time


class Capture(NamedTuple):
    """A message of a Go hub.

    Args:
        name: the hub's channel; "" for a broadcast.
        given: the message that the Go program was given.
        tail: its message on the server, behind the name of the source.
        text: the message as a hub of this library delivers it; {now} is the present time.
    """

    name: str
    given: dict[str, Any]
    tail: bytes
    text: str

    @property
    def channel(self) -> bytes:
        """The channel of the server, with the prefix "ws"."""
        return (f"ws:channel:{self.name}" if self.name else "ws:broadcast").encode()

    @property
    def body(self) -> bytes:
        """What Go published there."""
        return b'{"sourceId":"%b","message":%b}' % (GO_SOURCE.encode(), self.tail)

    @property
    def command(self) -> bytes:
        """The line that has the Go program publish it."""
        return json.dumps({"channel": self.name, "message": self.given}).encode() + b"\n"


CAPTURES = [
    Capture(
        "",
        {
            "type": "event",
            "data": {
                "event": "saved",
                "data": {"html": "<b>R&D</b>", "n": 1, "line": "a\u2028b\u2029"},
            },
            "timestamp": _LOCAL,
        },
        b'{"type":"event","data":{"data":{"html":"\\u003cb\\u003eR\\u0026D\\u003c/b\\u003e",'
        b'"line":"a\\u2028b\\u2029","n":1},"event":"saved"},'
        b'"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
        '{"type":"event","data":{"data":{"html":"<b>R&D</b>","line":"a\u2028b\u2029","n":1},'
        '"event":"saved"},"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
    ),
    Capture(
        "news",
        {
            "type": "event",
            "data": {"event": "said", "data": 'Grüße \U0001f680 "quoted" \\ \t\n'},
            "timestamp": _LOCAL,
        },
        b'{"type":"event","data":{"data":"Gr\xc3\xbc\xc3\x9fe \xf0\x9f\x9a\x80 \\"quoted\\" \\\\ '
        b'\\t\\n","event":"said"},"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
        '{"type":"event","channel":"news","data":{"data":"Grüße \U0001f680 \\"quoted\\" \\\\ '
        '\\t\\n","event":"said"},"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
    ),
    Capture(
        "process:build-42",
        {
            "type": "process_output",
            "processId": "build-42",
            "data": "if a < b && c > d\n",
            "timestamp": "2026-02-20T01:17:56.5Z",
        },
        b'{"type":"process_output","processId":"build-42","data":"if a \\u003c b \\u0026\\u0026 c '
        b'\\u003e d\\n","timestamp":"2026-02-20T01:17:56.5Z"}',
        '{"type":"process_output","channel":"process:build-42","processId":"build-42",'
        '"data":"if a < b && c > d\\n","timestamp":"2026-02-20T01:17:56.5Z"}',
    ),
    Capture(
        "process:build-42",
        {
            "type": "process_status",
            "processId": "build-42",
            "data": {"status": "exited", "exitCode": 0},
            "timestamp": "2026-02-20T01:17:56Z",
        },
        b'{"type":"process_status","processId":"build-42","data":{"exitCode":0,'
        b'"status":"exited"},"timestamp":"2026-02-20T01:17:56Z"}',
        '{"type":"process_status","channel":"process:build-42","processId":"build-42",'
        '"data":{"exitCode":0,"status":"exited"},"timestamp":"2026-02-20T01:17:56Z"}',
    ),
    Capture(
        "",
        {"type": "error", "data": "disk full", "timestamp": "2026-02-20T01:17:56Z"},
        b'{"type":"error","data":"disk full","timestamp":"2026-02-20T01:17:56Z"}',
        '{"type":"error","data":"disk full","timestamp":"2026-02-20T01:17:56Z"}',
    ),
    Capture(
        "a.b:c_d-9",
        {"type": "my_type", "data": "", "timestamp": _LOCAL},
        b'{"type":"my_type","data":"","timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
        '{"type":"my_type","channel":"a.b:c_d-9","data":"",'
        '"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
    ),
    Capture(
        "news",
        {
            "type": "event",
            "data": [0, -1.5, 1e21, 12345678901234567890, True, False, None, [], {}],
            "timestamp": _LOCAL,
        },
        b'{"type":"event","data":[0,-1.5,1e+21,12345678901234567000,true,false,null,[],{}],'
        b'"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
        '{"type":"event","channel":"news","data":[0,-1.5,1e+21,12345678901234567000,true,false,'
        'null,[],{}],"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
    ),
    Capture(
        "news",
        {"type": "event", "data": False, "timestamp": _LOCAL},
        b'{"type":"event","data":false,"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
        '{"type":"event","channel":"news","data":false,'
        '"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
    ),
    Capture(  # a bridge of before April 2026 sets no time
        "news",
        {"type": "event"},
        b'{"type":"event","timestamp":"0001-01-01T00:00:00Z"}',
        '{"type":"event","channel":"news","timestamp":"{now}"}',
    ),
    Capture(
        "",
        {"type": "event", "channel": "news", "data": 1, "timestamp": _LOCAL},
        b'{"type":"event","channel":"news","data":1,'
        b'"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
        '{"type":"event","channel":"news","data":1,'
        '"timestamp":"2026-02-20T02:17:56.123456789+01:00"}',
    ),
]
