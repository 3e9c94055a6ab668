"""The table of docs/faults.md, written from the tests: `python -m tests.faults.table`.

A row is an attack or a fault and the right answer; its proof are the tests whose names
begin with `test_fault_` and the row's number. `09_10` in a name are two rows, `21_to_27`
is seven. `--check` says whether the document is as it would be written.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["ROWS", "numbers", "proofs", "written"]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
SHOWN = 3  # sentences of a row; the others are counted

ROWS: dict[int, tuple[str, str]] = {
    1: ("a page of another site, with the visitor's cookies", "403 before the upgrade"),
    2: ("no Origin", "as `require_origin` says"),
    3: ("`null`, look-alike, or two Origins; another port", "403; equal once normalised: accepted"),
    4: ("a bad version, key, method, HTTP/1.0, a body", "400, 405 or 426, and the end"),
    5: ("a request behind a failed upgrade", "not served"),
    6: ("HTTP behind a Close frame", "the connection has ended"),
    7: ("a head that drips in", "cut after ten seconds; others are served"),
    8: ("connects and never says who it is", "closed in time"),
    9: ("a frame over the limit", "1009, before it is kept"),
    10: ("fragments over the limit in all", "1009 at the first byte over"),
    11: ("fragments without end", "1008"),
    12: ("a bomb of compressed data", "not negotiated unless asked for; then 1009, and no memory"),
    13: ("a ping between compressed fragments", "changes nothing"),
    14: ("text that is not UTF-8", "1007"),
    15: ("reserved bits and opcodes, bad codes and lengths", "1002"),
    16: ("a frame without a mask, or with one from a server", "1002"),
    17: ("a flood of pings", "bounded memory, others are not delayed"),
    18: ("a flood of messages", "read no further; bounded memory"),
    19: ("a flood of subscriptions", "an error beyond the bound; freed when empty"),
    20: ("churn, repetition, what was never subscribed", "nothing changes"),
    21: ("a channel name outside the rules", "one error; the connection stays"),
    22: ("JSON nested without end", "one error"),
    23: ("a number of 5,000 digits", "one error"),
    24: ("NaN, Infinity, 1e999", "one error"),
    25: ("keys that come twice", "the last counts"),
    26: ("a lone surrogate", "refused where it comes in"),
    27: ("no object, no text, binary", "one error"),
    28: ("a client that does not read", "others go on; cut, or skipped and counted"),
    29: ("a frame that drips in", "cut in time"),
    30: ("a peer that is gone without a word", "found by ping, and let go"),
    31: ("RST or FIN in the middle of a frame", "quiet, one callback"),
    32: ("a network that is silent for a while", "nothing lost, nothing twice"),
    33: ("the clock on the wall jumps", "nothing changes"),
    34: ("the machine is paused", "connections survive or come back"),
    35: ("a callback raises", "logged once; that client alone"),
    36: ("a callback blocks", "that client alone waits"),
    37: ("a callback calls the hub, or stops it", "no deadlock"),
    38: ("clients come and go during a broadcast", "nobody is missed, nothing raises"),
    39: ("stop, twice, from anywhere", "once, bounded, 1001 to all"),
    40: ("fork after start", "the child is clean; the parent goes on"),
    41: ("SIGTERM, SIGINT, SIGQUIT, SIGHUP", "1001 or 1012 to all at once, exit code 0"),
    42: ("no threads left", "what needs one gets 503 with Retry-After; who is there goes on"),
    43: ("no descriptors left", "503, no spinning, recovers"),
    44: ("comes and goes 100,000 times", "memory, threads, descriptors as before"),
    45: ("Redis is down at the start", "local, and says so"),
    46: ("Redis restarts, fails over", "local goes on; resubscribed"),
    47: ("Redis is unreachable", "found in time"),
    48: ("Redis is slow", "bounded"),
    49: ("an evil message on the bus", "dropped, counted"),
    50: ("everybody comes back at once", "spread; Retry-After is kept to"),
    51: ("many connections of one address; a forged X-Forwarded-For", "bounded; not believed"),
    52: ("a token in a query", "not in the log"),
    53: ("the time a comparison takes", "constant"),
    54: ("control characters on their way into the log", "quoted, cut"),
    55: ("a right that ends while connected", "4401"),
    56: ("a channel without a right to it", "`forbidden`"),
    57: ("a hostile server, from the client's side", "refused: size, redirect, certificate"),
    58: ("close of a client at any moment", "returns at once, no thread is left"),
    59: ("many publishers, slow readers", "one order for all"),
    60: ("both sides close", "clean, one callback"),
    61: ("a proxy's patience", "pings keep the connection"),
    62: ("a log handler that raises", "the hub goes on"),
    63: (
        "a signal handler, a finaliser or Ctrl-C publishes or stops inside a publish",
        "no hang; full: `HubFull`; `stop` returns",
    ),
    64: ("the same inside `print` to `hub.writer`", "no hang, nothing torn"),
    65: (
        "a descriptor number is reused while its old connection is still known",
        "no byte reaches the stranger",
    ),
    66: (
        "`unsubscribe` with an `id` while the hub stops or is full",
        "an `error` with that `id`; the connection stays",
    ),
    67: (
        "two `subscribe` for one channel, the second meets a full hub",
        "the first subscription stays",
    ),
    68: (
        "the hub thread is late at a connection's start and end",
        "`on_connect` and `on_disconnect`, or neither",
    ),
    69: ("a message that encodes but does not decode", "refused at publish; a listener survives"),
    70: ("`channel_name` raises", "guarded like every callback"),
    71: ("`start()` during a stop", "waits for the end, then runs"),
    72: ("one queued item, or housekeeping, raises", "logged and counted; the rest goes on"),
    73: ("many late viewers of a long history", "sent in shared pieces, at each viewer's pace"),
    74: (
        "one message larger than an outbox; many large histories",
        "each buffer is bounded, and all histories together",
    ),
    75: ("`stop()` runs out of time", "the log names what was waited for"),
    76: ("interpreter exit with slow viewers", "what is queued is written"),
    77: (
        "publishing in a child forked from a running hub",
        "`HubNotRunning` names the fork; warned once",
    ),
    78: ("a spinner, or 20,000 replaced states", "history keeps the lines"),
    79: ("cursor moves within a line", "the row that a terminal shows"),
    80: ("cursor moves between lines", "the rows that a terminal shows"),
    81: ("text, then control sequences only", "the text stays"),
    82: ("`ws-hub run` mirrors long lines", "the terminal as if the program had run in it"),
    83: ("`close()` of a program with children in other process groups", "its whole session ends"),
    84: ("the exit status is taken by somebody else", "unknown, never a green 0"),
    85: ("a program is started by a thread with blocked signals", "clean mask, default handlers"),
    86: ("`ws-hub run` with a closed standard stream", "the program runs"),
    87: ("a progress bar refreshed by a thread of its own", "no stale bar; freed with its thread"),
    88: ('`process_status` "running" with an exit code', "`status` decides"),
    89: ("a line over a client's limit", "cut by the sender; skipped by the client, and said"),
    90: ("a program asks for a password", "end-of-file, at once"),
    91: ("numbers and counts after a gap", "true"),
    92: ("a bad `#!` under a pty; `stack_info` of a log record", "`failed`; shown"),
    93: (
        "`subscribe`, `unsubscribe`, `subscribe` before the first answer",
        "each message once, for the newest",
    ),
    94: ("`onGap`, `onLagged` or `onSync` raises", "guarded like message handlers"),
    95: ("the wall clock jumps in a browser", "dead lines are found all the same"),
    96: (
        "edges of the browser client: closing sockets, infinite intervals, offline",
        "false; off; said",
    ),
    97: ("npm `ws`: a refused connection", "no unhandled error"),
    98: ("a server that selects no subprotocol", "connected; final where it carried the token"),
    99: ("joined frames of a Go hub of over 16 MiB", "taken"),
    100: (
        "`ws-hub tail`: refusals, blank lines, names",
        "said once; as printed; the server decides",
    ),
    101: ("what callbacks are given", "ints of ours; counts as documented"),
    102: ("a proxy cuts a prefix off the path", "the page works below it"),
    103: ("warnings without logging set-up", "visible"),
    104: ("a page from another name of the same host", "a warning that names both origins"),
    105: ("own rules and process channels", "own rules come first"),
    106: (
        "a wrong or missing argument where an audience is named",
        "refused; never a wider audience",
    ),
    107: ("a user id that is no text", "an int means its text"),
    108: ("arguments of the wrong type", "refused at once, with what to pass"),
    109: ("`on_message` raises for a message without `id`", "a plain `error`"),
    110: ("a server from wsgiref's family", "works"),
    111: ("origins of custom schemes, `null`, wildcards", "can be listed, or are refused"),
    112: ("timestamps, process ids and user ids that are none", "refused"),
    113: ("keys in any case, binary frames with JSON", "taken where a setting says so"),
    114: ("a request line in absolute form", "taken"),
    115: ("a busy machine", "no test notices"),
    116: ("long ids in a loop, read slowly", "an `id` has 128 bytes; answers count; then cut"),
    117: ("one subscription repeated against a long history", "acked, not replayed anew; charged"),
    118: ("a peer that reads slowly and steadily", "stays"),
    119: ("a loss is reported while the client's inbox is full", "the report finds room"),
    120: (
        "many channels with much history",
        "one bound over all; a smaller one for clients' channels",
    ),
    121: (
        "floods of small, nested or compressed messages",
        "a budget a client, an address, a user, and over all",
    ),
    122: ("a request behind a refused upgrade, on any server", "not served"),
    123: ("DNS rebinding against a server on loopback", "refused"),
    124: ("a slow direct link", "acknowledged bytes are a sign of life"),
    125: ("subscriptions to thousands of unknown names", "no numbering is made or lost"),
    126: ("a loop of large broadcasts", "slowed to what healthy clients take"),
    127: ("gevent or eventlet has patched the process", "refused with a sentence"),
    128: ("made-up channel names on the viewer's page", "only channels with content, in pages"),
    129: ("what an eviction throws away", "counted as dropped"),
    130: (
        "stalled TLS, idle connections, no `Host`, `SystemExit` in a callback, kill -9",
        "bounded, closed, answered, logged",
    ),
    131: ("a publish as soon as a channel has subscribers", "reaches all that were counted"),
    132: ("a publish whose answer a kill -9 has cut off is repeated", "it counts once"),
    133: ("the disk fails while a client is away", "it is told what is missing"),
}


def numbers(name: str) -> list[int]:
    """Return the rows that a test's name begins with."""
    match = re.match(r"test_fault_(\d+)(?:_to_(\d+))?((?:_\d+)*)(?=_|$)", name)
    if match is None:
        return []
    first, last = int(match[1]), int(match[2] or match[1])
    return [*range(first, last + 1), *map(int, filter(None, match[3].split("_")))]


@cache
def proofs() -> dict[int, list[tuple[str, str]]]:
    """Row -> file and sentence of each test that proves it, in the order of the files."""
    found: dict[int, list[tuple[str, str]]] = {number: [] for number in ROWS}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "def test_fault_" not in text:
            continue  # to parse all tests takes seconds
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef):
                continue
            sentence = re.sub(r"^test_fault(_\d+(_to)?)+_", "", node.name).replace("_", " ")
            for number in numbers(node.name):
                found[number].append((path.name, sentence))
    return found


def lines() -> Iterator[str]:
    """Yield the table."""
    yield "| | attack or fault | answer | proven by |"
    yield "| --- | --- | --- | --- |"
    for number, tests in proofs().items():
        attack, answer = ROWS[number]
        shown = [f"{sentence} (`{name}`)" for name, sentence in tests[:SHOWN]]
        if len(tests) > SHOWN:
            shown.append(f"and {len(tests) - SHOWN} more")
        yield f"| {number} | {attack} | {answer} | {'; '.join(shown) or 'not yet'} |"


def written(text: str) -> str:
    """Return a document with the table between its two marks."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + "\n" + "\n".join(lines()) + "\n" + END + tail


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.table")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when it is old")
    text = DOCUMENT.read_text(encoding="utf-8")
    if parser.parse_args().check:
        return int(written(text) != text)
    DOCUMENT.write_text(written(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
