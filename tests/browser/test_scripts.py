"""The parts of the page that need no page: escape sequences, lines, and the reusable client.

Run in a real browser's engine, the client on a socket and a clock of the test's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.chromium import Browser, Page
from tests.browser.conftest import Site
from ws_hub.access.tokens import token_protocol

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[tuple[Page, str]]:
    site = Site()
    with Page(browser) as page:
        yield page, site.url
    site.close()


@pytest.fixture
def engine(tab: tuple[Page, str]) -> Iterator[Page]:
    """A fresh document of the same origin with no script of its own."""
    page, url = tab
    page.open("about:blank")
    page.open(url + "static/icon.svg")
    yield page
    assert page.complaints() == []


# --- escape sequences ----------------------------------------------------------------------


def parse(engine: Page, *texts: str) -> list[list[Any]]:
    """Return [text, {what is set}] of each run, over all texts."""
    found: list[list[Any]] = engine.eval(
        "import('/static/ansi.js').then(({AnsiParser}) => {"
        " const parser = new AnsiParser();"
        f" return {json.dumps(texts)}.flatMap((text) => parser.parse(text)).map("
        "  ({text, style}) => [text, Object.fromEntries(Object.entries(style ?? {})"
        "   .filter(([_, value]) => value !== null && value !== false))]); })"
    )
    return found


@pytest.mark.parametrize(
    ("sgr", "style"),
    [
        ("1", {"bold": True}),
        ("2;3;4;7;9", dict.fromkeys(("dim", "italic", "underline", "inverse", "strike"), True)),
        ("31", {"fg": 1}),
        ("97;40", {"fg": 15, "bg": 0}),
        ("38;5;208", {"fg": 208}),
        ("38;2;1;2;255", {"fg": "#0102ff"}),
        ("38:2::1:2:255", {"fg": "#0102ff"}),
        ("38:2:1:2:255", {"fg": "#0102ff"}),
        ("48;5;0;1", {"bg": 0, "bold": True}),
        ("58;5;9;1", {"bold": True}),
        ("4:3", {"underline": True}),
        ("4:0", {}),
        ("1;22", {}),
        ("31;39;41;49", {}),
        ("31;0", {}),
        ("31;", {}),
        ("38;5;999", {}),
        ("38;2;1", {}),
        ("38", {}),
        ("77", {}),
    ],
)
def test_colours_and_styles_are_understood(engine: Page, sgr: str, style: dict[str, Any]) -> None:
    assert parse(engine, f"\x1b[{sgr}mx") == [["x", style]]


@pytest.mark.parametrize(
    "sequence",
    [
        "\x1b[2J",
        "\x1b[?25l",
        "\x1b[K",
        "\x1b[10;20H",
        "\x1b[>4;2m",
        "\x1b]0;title\x07",
        "\x1b]8;;javascript:x\x1b\\",
        "\x1bP1$r\x1b\\",
        "\x1b(B",
        "\x1b=",
        "\x1bc",
        "\x07",
        "\x00",
        "\x7f",
        "\x9b",
    ],
)
def test_every_other_sequence_is_swallowed_wherever_it_is_cut(engine: Page, sequence: str) -> None:
    assert parse(engine, f"a{sequence}b") == [["ab", {}]]
    for cut in range(len(sequence) + 1):
        pieces = parse(engine, f"a{sequence[:cut]}", f"{sequence[cut:]}b")
        assert "".join(text for text, _ in pieces) == "ab"


def test_a_colour_that_is_cut_in_two_is_one(engine: Page) -> None:
    assert parse(engine, "a\x1b[3", "1mb") == [["a", {}], ["b", {"fg": 1}]]


def test_a_string_that_never_ends_is_shown_in_the_end(engine: Page) -> None:
    runs = parse(engine, "a\x1b]0;", "x" * 5000, "b")
    assert "".join(text for text, _ in runs).endswith("x" * 5000 + "b")


def test_a_backspace_takes_a_character_back(engine: Page) -> None:
    assert parse(engine, "|\b/\b-") == [["-", {}]]
    assert parse(engine, "\b\bx") == [["x", {}]]


def assemble(engine: Page, *texts: str, limit: int = 20000) -> list[str]:
    """Return the lines as they stand on the page after all texts."""
    shown: list[str] = engine.eval(
        "import('/static/ansi.js').then(({LineAssembler}) => {"
        f" const assembler = new LineAssembler({limit}); const lines = [];"
        f" for (const text of {json.dumps(texts)}) for (const line of assembler.feed(text)) {{"
        "  if (line.replaces) lines.pop();"
        "  lines.push(line.runs.map((run) => run.text + (run.style ? `<${run.style.fg}>` : ''))"
        "   .join('') + (line.cut ? `+${line.cut}` : '')); }"
        " return lines; })"
    )
    return shown


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (("a", "b"), ["a", "b"]),
        (("", "a", ""), ["", "a", ""]),
        (("10%\r", "20%\r", "done", "next"), ["done", "next"]),
        (("a\x17", "b\x17", "c", "d"), ["abc", "d"]),
        (("a\x17", "b\r", "c"), ["ac"]),
        (("a\x17\x17", "", "b"), ["a", "b"]),
        (("one\n", "two\r\n", "three\nfour"), ["one", "two", "three", "four"]),
        (("10%\r20%\r30%",), ["30%"]),
        (("\x1b[31mred\r", "\x1b[31mred!", "red still"), ["red!<1>", "red still<1>"]),
        (("\x1b[31mred\r", "plain"), ["plain"]),
        (("\x1b[31ma\x17", "b\r", "\x1b[0mc"), ["a<1>c"]),
    ],
)
def test_texts_become_lines(engine: Page, texts: tuple[str, ...], lines: list[str]) -> None:
    assert assemble(engine, *texts) == lines


def test_a_line_is_kept_up_to_a_limit(engine: Page) -> None:
    assert assemble(engine, "aaaa\x17", "bbbb\x17", "cc", "d", limit=6) == ["aaaabb+4", "d"]


# --- the client ----------------------------------------------------------------------------

HARNESS = """
import('/ws_hub.js').then(async (module) => {
  const {HubClient, calculateBackoff, fullJitter, splitBatch, tokenProtocols, webSocketUrl} =
    module;
  const timers = new Map();
  let now = 0, nextTimer = 1;
  globalThis.setTimeout = (fn, delay) => {
    timers.set(nextTimer, [now + delay, fn]);
    return nextTimer++;
  };
  globalThis.clearTimeout = (id) => timers.delete(id);
  performance.now = () => now;
  const pass = (time) => {
    const end = now + time;
    for (;;) {
      const due = [...timers].filter(([_, [at]]) => at <= end).sort((a, b) => a[1][0] - b[1][0])[0];
      if (!due) break;
      timers.delete(due[0]);
      now = due[1][0];
      due[1][1]();
    }
    now = end;
  };
  const sockets = [];
  class Socket {
    constructor(url, offered) { Object.assign(this, {url, offered, sent: []}); sockets.push(this); }
    send(text) { this.sent.push(JSON.parse(text)); }
    close(code, reason) { this.closed = [code, reason]; }
    open() { this.onopen({}); return this; }
    say(...messages) { this.onmessage({data: messages.map((m) => JSON.stringify(m)).join("\\n")}); }
    lose(code = 1006, reason = "") { this.onclose({code, reason}); }
  }
  const promises = async () => { for (let n = 0; n < 9; n++) await null; };
  const last = () => sockets[sockets.length - 1];
  const states = [], seen = [], told = [];
  const client = new HubClient("ws://host/ws", {WebSocket: Socket, random: () => 0.5});
  client.addEventListener("state", ({detail}) => states.push(detail));
  const note = (name) => (...args) => told.push([name, ...args]);
  const hooks = {
    onSync: note("sync"), onGap: note("gap"), onLagged: note("lagged"), onError: note("error"),
  };
  const own = (number) => `ws-hub:${number}`; // the client's own ids
  const ack = (data, id = own(1)) => ({type: "ack", id, data: {channel: "c", ...data}});
  const message = (seq) => ({type: "event", channel: "c", data: seq, seq});
  %s
})
"""


def client(engine: Page, script: str) -> Any:
    return engine.eval(HARNESS % script)


def test_the_wait_doubles_up_to_a_bound_and_is_jittered(engine: Page) -> None:
    assert client(engine, "return [0, 1, 2, 3, 5, 6, 5000].map((n) => calculateBackoff(n));") == [
        1000,
        1000,
        2000,
        4000,
        16000,
        30000,
        30000,
    ]
    assert client(engine, "return [fullJitter(8, () => 0), fullJitter(8, () => 0.5)];") == [0, 4]


def test_a_frame_of_several_messages_is_split(engine: Page) -> None:
    assert client(engine, 'return splitBatch("a\\nb\\n\\n c");') == ["a", "b", " c"]


def test_urls_of_pages_and_paths_become_those_of_sockets(engine: Page) -> None:
    script = "return [webSocketUrl('/ws', 'https://h:8/x/'), webSocketUrl('http://h/ws#a')];"
    assert client(engine, script) == ["wss://h:8/ws", "ws://h/ws"]


def test_it_subscribes_with_both_fields_and_from_the_last_message_again(engine: Page) -> None:
    sent = client(
        engine,
        """
        client.subscribe("c", (m) => seen.push(m.seq), {since: 0});
        client.connect();
        last().open();
        last().say(ack({epoch: "e", seq: 2, recovered: true, replayed: 2}), message(1), message(2));
        last().say(message(3));
        last().lose();
        pass(1000);
        last().open();
        last().say(ack({epoch: "e", seq: 5, recovered: true, replayed: 2}, own(2)));
        last().say(message(4), message(5));
        return [sockets.map((s) => s.sent[0]), seen];
        """,
    )
    assert sent == [
        [
            {"type": "subscribe", "channel": "c", "data": "c", "id": "ws-hub:1", "since": 0},
            {
                "type": "subscribe",
                "channel": "c",
                "data": "c",
                "id": "ws-hub:2",
                "since": 3,
                "epoch": "e",
            },
        ],
        [1, 2, 3, 4, 5],
    ]


def test_what_is_lost_for_good_is_told(engine: Page) -> None:
    told = client(
        engine,
        """
        client.subscribe("c", (m) => seen.push(m.seq), {since: 0, ...hooks});
        client.connect();
        last().open();
        last().say(ack({epoch: "e", seq: 10, recovered: true, replayed: 2}));
        last().say(message(9), message(10));
        last().say(message(12));
        last().lose();
        pass(1000);
        last().open();
        last().say(ack({epoch: "e", seq: 30, recovered: false, replayed: 1}, own(2)), message(30));
        return [told.map(([name, info]) => [name, info.missed ?? info]), seen];
        """,
    )
    assert told == [[["sync", 8], ["gap", 1], ["sync", 17]], [9, 10, 12, 30]]


def test_a_new_numbering_begins_from_its_first_message(engine: Page) -> None:
    told = client(
        engine,
        """
        client.subscribe("c", (m) => seen.push(m.seq), {since: 0, ...hooks});
        client.connect();
        last().open();
        last().say(ack({epoch: "e", seq: 0, recovered: true, replayed: 0}), message(1), message(2));
        last().lose();
        pass(1000);
        last().open();
        last().say(ack({epoch: "f", seq: 1, recovered: false, replayed: 1}, own(2)));
        last().say(message(1), message(2));
        return [told.at(-1)[1], seen];
        """,
    )
    assert told == [
        {"first": False, "replayed": 1, "recovered": False, "restarted": True, "missed": 0},
        [1, 2, 1, 2],
    ]


def test_it_catches_up_when_it_lagged(engine: Page) -> None:
    result = client(
        engine,
        """
        client.subscribe("c", (m) => seen.push(m.seq), hooks);
        client.connect();
        last().open();
        last().say(ack({epoch: "e", seq: 4, recovered: true, replayed: 0}), message(5));
        last().say({type: "lagged", channel: "c", seq: 5});
        return [told.map(([name]) => name), last().sent.at(-1)];
        """,
    )
    assert result == [
        ["sync", "lagged"],
        {
            "type": "subscribe",
            "channel": "c",
            "data": "c",
            "id": "ws-hub:2",
            "since": 5,
            "epoch": "e",
        },
    ]


def test_a_go_hub_that_answers_nothing_is_served_as_well(engine: Page) -> None:
    result = client(
        engine,
        """
        client.subscribe("process:x", (m) => seen.push(m.data), {since: 0});
        client.connect();
        last().open();
        const line = (data) => ({type: "process_output", channel: "process:x", data});
        last().say(line("a"), line("b"));
        pass(25000);
        const asked = last().sent.at(-1).type;
        last().say({type: "pong"});
        pass(15000);
        return [seen, asked, client.state, sockets.length];
        """,
    )
    assert result == [["a", "b"], "ping", "connected", 1]


def test_a_silent_server_is_given_up(engine: Page) -> None:
    result = client(
        engine,
        """
        client.connect();
        last().open();
        pass(25000);
        const asked = last().sent.map((m) => m.type);
        pass(10000);
        const closed = sockets[0].closed;
        sockets[0].say({type: "event", data: "late"});  // no longer listened to
        pass(500);
        return [asked, closed, states.map((s) => s.state)];
        """,
    )
    assert result == [
        ["ping"],
        [4000, "the server is silent"],
        ["connecting", "connected", "waiting", "connecting"],
    ]


def test_a_handshake_without_an_answer_is_given_up(engine: Page) -> None:
    script = "client.connect(); pass(10000); return [states.at(-1).reason, sockets[0].closed[0]];"
    assert client(engine, script) == ["no answer", 4000]


def test_waits_grow_until_a_connection_has_held(engine: Page) -> None:
    waits = client(
        engine,
        """
        client.connect();
        const wait = () => { const at = states.at(-1).retryIn; pass(at); return at; };
        const waits = [];
        for (let n = 0; n < 3; n++) { last().lose(); waits.push(wait()); }
        last().open(); pass(4000); last().lose(); waits.push(wait());  // it has not held
        last().open(); pass(5000); last().lose(); waits.push(wait());  // it has
        return waits;
        """,
    )
    assert waits == [500, 1000, 2000, 4000, 500]


BACK = "server restarting; come back after 4000 ms"


@pytest.mark.parametrize(
    ("code", "reason", "wait"),
    [
        (1006, "", 500),
        (1001, "server going away", 2500),
        (1012, "", 2500),
        (1013, "too slow", 2500),
        # Not sooner than asked, and from there on within as long again.
        (1012, BACK, 4000 + 2000),
        (1012, "come back after 100 ms", 100 + 500),
        (1012, "come back after 999999999 ms", 1.5 * 3600000),
        (1011, BACK, 500),
    ],
)
def test_fault_50_a_server_that_sends_all_away_gets_them_back_spread(
    engine: Page, code: int, reason: str, wait: int
) -> None:
    script = f"""
        client.connect(); last().open(); last().lose({code}, "{reason}");
        return states.at(-1).retryIn;
    """
    assert client(engine, script) == wait


@pytest.mark.parametrize("code", [4401, 4403])
def test_who_is_not_let_in_does_not_come_back(engine: Page, code: int) -> None:
    script = f"""
        client.connect(); last().open(); last().lose({code}, "no"); pass(100000);
        return [client.state, states.at(-1).reason, sockets.length];
    """
    assert client(engine, script) == ["closed", "no", 1]


def test_close_is_the_end_and_connect_a_new_beginning(engine: Page) -> None:
    script = """
        client.subscribe("c", () => {});
        client.connect(); last().open(); client.close(); pass(100000);
        const after = [client.state, sockets.length, sockets[0].closed, client.send({type: "x"})];
        client.connect(); last().open();
        return [...after, last().sent[0].channel];
    """
    assert client(engine, script) == ["closed", 1, [1000, ""], False, "c"]


def test_unsubscribing_says_so_and_is_remembered(engine: Page) -> None:
    script = """
        const one = client.subscribe("c", (m) => seen.push(m.seq));
        client.connect(); last().open();
        one.close(); one.close();
        last().say(message(1));
        last().lose(); pass(1000); last().open();
        return [sockets[0].sent[1], seen, last().sent];
    """
    assert client(engine, script) == [
        {"type": "unsubscribe", "channel": "c", "data": "c", "id": "ws-hub:2"},
        [],
        [],
    ]


def test_a_refusal_is_told_and_a_full_server_asked_again(engine: Page) -> None:
    script = """
        client.subscribe("c", () => {}, hooks);
        client.connect(); last().open();
        last().say({type: "error", id: own(1), code: "internal", data: "full"});
        pass(1000);
        const again = last().sent.length;
        last().say({type: "error", id: own(2), code: "forbidden", data: "no"});
        pass(100);
        return [again, told.map(([name, m]) => [name, m.data]), last().sent.length];
    """
    assert client(engine, script) == [2, [["error", "no"]], 2]


def test_a_handler_that_fails_costs_nobody_a_message(engine: Page) -> None:
    script = """
        globalThis.reportError = (error) => told.push(error.message);
        client.subscribe("c", (m) => { seen.push(m.seq); throw new Error("mine"); });
        client.connect(); last().open();
        last().say(ack({epoch: "e", seq: 0}), message(1), message(2));
        return [seen, told];
    """
    assert client(engine, script) == [[1, 2], ["mine", "mine"]]


def test_fault_94_a_callback_that_fails_leaves_the_subscription_alive(engine: Page) -> None:
    script = """
        const reported = [];
        globalThis.reportError = (error) => reported.push(error.message);
        const failing = (name) => () => { throw new Error(name); };
        client.subscribe("c", async (m) => { seen.push(m.seq); throw new Error("async"); }, {
          since: 0,
          onSync: failing("sync"),
          onGap: failing("gap"),
          onLagged: failing("lagged"),
          onError: failing("error"),
        });
        client.connect(); last().open();
        last().say(ack({epoch: "e", seq: 2, replayed: 1}), message(2), message(4));
        last().say({type: "lagged", channel: "c", seq: 4});
        const asked = last().sent.at(-1);
        last().say(ack({epoch: "e", seq: 5, replayed: 1}, asked.id), message(5));
        last().lose(); pass(1000); last().open();
        last().say({type: "error", id: last().sent[0].id, code: "forbidden", data: "no"});
        last().say(message(6));
        await promises();
        return [seen, asked.since, reported.sort()];
    """
    told = ["async"] * 4 + ["error", "gap", "lagged", "sync", "sync"]
    assert client(engine, script) == [[2, 4, 5, 6], 4, told]


def test_fault_94_a_callback_may_close_what_calls_it(engine: Page) -> None:
    script = """
        const one = client.subscribe("c", (m) => seen.push(m.seq), {onGap: () => one.close()});
        const two = client.subscribe("d", (m) => { seen.push(m.data); client.close(); });
        client.connect(); last().open();
        last().say(ack({epoch: "e", seq: 1}), message(3), message(4));
        const other = (data) => ({type: "event", channel: "d", data});
        last().say(other("d"), other("e"));
        return [seen, client.state, last().sent.map((m) => m.type)];
    """
    sent = ["subscribe", "subscribe", "unsubscribe"]
    assert client(engine, script) == [["d"], "closed", sent]


def test_fault_93_two_quick_changes_of_mind_hand_on_each_message_once(engine: Page) -> None:
    script = """
        const keep = (m) => seen.push(m.seq);
        client.addEventListener("message", ({detail}) => told.push(detail));
        client.addEventListener("error", ({detail}) => told.push(detail));
        client.connect(); last().open();
        client.subscribe("c", keep, {since: 0}).close();
        client.subscribe("c", keep, {since: 0});
        last().say(ack({epoch: "e", seq: 2, replayed: 2}), message(1), message(2));
        last().say(ack({}, own(2)));
        last().say(ack({epoch: "e", seq: 2, replayed: 2}, own(3)));
        last().say(message(1), message(2), message(3));
        client.subscribe("d", keep).close();
        last().say({type: "event", channel: "d"}, {type: "lagged", channel: "d", seq: 1});
        last().say({type: "error", id: own(4), data: "no"});
        last().say(ack({}, own(5)), {type: "event", channel: "d", data: "the server's own doing"});
        return [seen, told.map((each) => each.data)];
    """
    assert client(engine, script) == [[1, 2, 3], ["the server's own doing"]]


def test_fault_93_who_subscribes_when_connected_asks_once(engine: Page) -> None:
    script = """
        client.addEventListener("state", ({detail}) => {
          if (detail.state === "connected") client.subscribe("d", () => {});
        });
        client.subscribe("c", () => {});
        client.connect(); last().open();
        return last().sent.map((m) => m.channel).sort();
    """
    assert client(engine, script) == ["c", "d"]


def test_fault_125_numbers_that_fall_are_asked_for_anew(engine: Page) -> None:
    script = """
        client.subscribe("c", (m) => seen.push(m.data), {since: 0, ...hooks});
        client.connect(); last().open();
        last().say(ack({epoch: "e", seq: 2, replayed: 2}), message(1), message(2));
        last().say({...message(1), data: "dropped"}, {...message(2), data: "dropped"});
        const [leave, again] = last().sent.slice(1);
        last().say(ack({}, leave.id));
        last().say(ack({epoch: "f", seq: 3, replayed: 2, recovered: false}, again.id));
        last().say({...message(2), data: "b"}, {...message(3), data: "c"});
        const sync = told.at(-1)[1];
        last().say(message(3));  // twice
        const twice = last().sent.at(-1);
        last().say(ack({epoch: "f", seq: 3}, twice.id), message(4));
        const {id, ...request} = again;
        return [leave.type, request, seen, sync, told.at(-1)[1].restarted];
    """
    request = {"type": "subscribe", "channel": "c", "data": "c", "since": 2, "epoch": "e"}
    sync = {"first": False, "replayed": 2, "recovered": False, "restarted": True, "missed": 1}
    expected = ["unsubscribe", request, [1, 2, "b", "c", 4], sync, False]
    assert client(engine, script) == expected


def test_a_hole_within_a_replay_is_no_gap(engine: Page) -> None:
    script = """
        client.subscribe("c", (m) => seen.push(m.seq), {since: 0, ...hooks});
        client.connect(); last().open();
        last().say(ack({epoch: "e", seq: 30, replayed: 3}), message(1), message(10), message(20));
        last().say(message(31), message(33));
        return [seen, told.map(([name, info]) => [name, info.missed ?? info])];
    """
    assert client(engine, script) == [[1, 10, 20, 31, 33], [["sync", 0], ["gap", 1]]]


def test_fault_93_an_applications_own_ids_are_not_those_of_requests(engine: Page) -> None:
    script = """
        client.addEventListener("message", ({detail}) => told.push([detail.type, detail.id]));
        client.subscribe("c", (m) => seen.push(m.seq), {since: 0});
        client.connect(); last().open();
        client.send({type: "say", id: 1});
        last().say({type: "ack", id: 1, data: {}}, {type: "error", id: 2, data: "no"});
        last().say(ack({epoch: "e", seq: 2, replayed: 2}), message(1), message(2));
        return [seen, told, last().sent.map((m) => m.id)];
    """
    assert client(engine, script) == [[1, 2], [["ack", 1]], ["ws-hub:1", 1]]


def test_fault_55_a_subscription_that_the_server_ends_is_told_of_and_may_come_back(
    engine: Page,
) -> None:
    script = """
        const one = client.subscribe("c", (m) => seen.push(m.data), hooks);
        client.connect(); last().open();
        const end = {type: "error", channel: "c", code: "forbidden"};
        last().say({...end, data: "Subscribe: unauthorised"});  // of an older one: asked already
        last().say(ack({}));
        last().say({...end, data: "Publish: not allowed"}, {...end, id: 7, data: "Subscribe: x"});
        const before = told.filter(([name]) => name === "error").length;
        last().say({...end, data: "Subscribe: unauthorised"});
        one.close();
        client.subscribe("c", (m) => seen.push(m.data), hooks);
        const errors = told.filter(([name]) => name === "error").map(([_, m]) => m.data);
        return [before, errors, last().sent.map((m) => m.type)];
    """
    sent = ["subscribe", "unsubscribe", "subscribe"]
    assert client(engine, script) == [0, ["Subscribe: unauthorised"], sent]


@pytest.mark.parametrize("channel", ["undefined", "null", '""', "0", '["c"]'])
def test_fault_106_a_channel_that_is_not_set_is_not_everybody(engine: Page, channel: str) -> None:
    script = f"""
        let refused = null;
        try {{ client.subscribe({channel}, (m) => seen.push(m)); }}
        catch (error) {{ refused = error.name; }}
        client.connect(); last().open();
        last().say({{type: "event", data: "to all"}});
        return [refused, seen, last().sent];
    """
    assert client(engine, script) == ["TypeError", [], []]


def test_fault_100_a_name_that_no_hub_takes_is_refused(engine: Page) -> None:
    script = """
        client.subscribe("\\u0001".repeat(4096), () => {});
        try { client.subscribe("c".repeat(4097), () => {}); }
        catch (error) { told.push(error.name); }
        client.connect(); last().open();
        return [told, last().sent.length, JSON.stringify(last().sent[0]).length < 65536];
    """
    assert client(engine, script) == [["RangeError"], 1, True]


# --- time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-3_600_000, 3_600_000])
def test_fault_95_a_clock_that_is_set_changes_nothing(engine: Page, jump: int) -> None:
    script = f"""
        const real = Date.now;
        client.connect(); last().open();
        pass(20000);
        Date.now = () => real() + {jump};
        pass(5000);
        const asked = last().sent.map((m) => m.type);
        pass(10000);
        Date.now = real;
        return [asked, client.state, states.at(-1).reason];
    """
    assert client(engine, script) == [["ping"], "waiting", "the server is silent"]


@pytest.mark.parametrize("value", ["0", "Infinity", "NaN", "-1"])
def test_fault_96_a_time_that_is_none_switches_a_timer_off(engine: Page, value: str) -> None:
    script = f"""
        Object.assign(client.options, {{pingInterval: {value}, connectTimeout: {value}}});
        client.connect();
        const connecting = timers.size;
        last().open();
        pass(5000);  // until the connection counts as stable
        return [connecting, timers.size, last().sent];
    """
    assert client(engine, script) == [0, 0, []]


def test_fault_96_pings_go_on_where_nothing_is_waited_for(engine: Page) -> None:
    script = """
        client.options.pingTimeout = Infinity;
        client.connect(); last().open();
        pass(100000);
        return [last().sent.length, client.state];
    """
    assert client(engine, script) == [4, "connected"]


def test_fault_96_no_timer_is_longer_than_a_timer_can_be(engine: Page) -> None:
    script = """
        const delays = [];
        const plain = globalThis.setTimeout;
        globalThis.setTimeout = (fn, delay) => { delays.push(delay); return plain(fn, delay); };
        const [pingInterval, stableAfter, connectTimeout, initialBackoff] = Array(4).fill(1e12);
        Object.assign(client.options, {pingInterval, stableAfter, connectTimeout});
        Object.assign(client.options, {maxBackoff: Infinity, initialBackoff});
        client.connect(); last().open(); last().lose();
        return [Math.max(...delays), delays.length];
    """
    assert client(engine, script) == [2**31 - 1, 4]


@pytest.mark.parametrize("option", ["initialBackoff", "maxBackoff", "multiplier"])
def test_fault_96_a_wait_that_is_none_is_refused(engine: Page, option: str) -> None:
    script = f"""
        return [NaN, 0, -1, undefined].map((value) => {{
          try {{ new HubClient("ws://host/", {{{option}: value}}); }}
          catch (error) {{ return error.message; }}
        }});
    """
    values = ("NaN", "0", "-1", "undefined")
    expected = [f"{option} must be a positive number, not {value}" for value in values]
    assert client(engine, script) == expected


# --- the network ---------------------------------------------------------------------------


def test_fault_96_nothing_is_sent_on_a_socket_that_is_closing(engine: Page) -> None:
    script = """
        client.connect(); last().open();
        last().readyState = 1;
        const open = client.send({type: "x"});
        last().readyState = 2;
        return [open, client.send({type: "y"}), last().sent];
    """
    assert client(engine, script) == [True, False, [{"type": "x"}]]


def test_fault_96_only_a_click_ends_a_wait_that_the_server_asked_for(engine: Page) -> None:
    script = """
        client.connect(); last().open();
        last().lose(1012, "server restarting; come back after 60000 ms");
        await client.wake();
        const asked = [client.state, sockets.length];
        client.retryNow();
        const clicked = sockets.length;
        last().open(); last().lose(1006);
        await client.wake();
        return [asked, clicked, sockets.length];
    """
    assert client(engine, script) == [["waiting", 1], 2, 3]


def test_fault_96_a_connection_is_asked_whether_it_is_alive(engine: Page) -> None:
    script = """
        client.connect(); last().open();
        pass(1000);
        const alive = client.wake();
        last().say({type: "pong", id: own(1)});
        pass(1000);
        const dead = client.wake();
        pass(6000);
        client.wake();  // does not put off the end
        pass(4000);
        return [await alive, await dead, client.state, sockets[0].sent.length];
    """
    assert client(engine, script) == [True, False, "waiting", 2]


def test_fault_97_a_socket_has_a_listener_for_errors_from_the_first_moment(engine: Page) -> None:
    script = """
        client.connect();
        const listens = typeof last().onerror;
        last().onerror({message: "connect ECONNREFUSED 127.0.0.1:9"});
        last().lose(1006, "");
        return [listens, client.state, states.at(-1).reason];
    """
    expected = ["function", "waiting", "connect ECONNREFUSED 127.0.0.1:9"]
    assert client(engine, script) == expected


@pytest.mark.parametrize(
    "how",
    [
        'last().protocol = ""; last().open()',
        'last().onerror({message: "Server sent no subprotocol"}); last().lose()',
    ],
)
def test_fault_98_a_token_that_nobody_has_looked_at_is_final(engine: Page, how: str) -> None:
    script = f"""
        client.options.token = "secret";
        client.connect();
        {how};
        pass(100000);
        return [client.state, states.at(-1).reason.includes('tokenIn: "message"'), sockets.length];
    """
    assert client(engine, script) == ["closed", True, 1]


def test_what_is_no_message_is_an_event_and_goes_no_further(engine: Page) -> None:
    script = """
        client.addEventListener("error", ({detail: {error, message}}) =>
          told.push(error ? "bad" : message.data));
        client.addEventListener("message", ({detail}) => seen.push(detail.type));
        client.connect(); last().open();
        last().onmessage({data: "{"});
        last().onmessage({data: new Blob([])});
        last().onmessage({data: '{"type":"event"}\\nno message\\n{"type":"event"}'});
        last().say(null, 3, {type: "event"}, {type: "pong"}, {type: "error", data: "limit"});
        return [told, seen];
    """
    assert client(engine, script) == [["bad"] * 5 + ["limit"], ["event"] * 3]


def test_one_channel_is_subscribed_to_once(engine: Page) -> None:
    script = """
        client.subscribe("c", () => {});
        try { client.subscribe("c", () => {}); } catch (error) { return error.message; }
    """
    assert client(engine, script) == "c is subscribed to already: close() that subscription first"


# --- who we are ----------------------------------------------------------------------------


def test_a_token_goes_as_a_subprotocol_in_the_letters_that_are_allowed_there(
    engine: Page,
) -> None:
    assert client(engine, "return tokenProtocols('ÿ?>~');") == ["ws-hub", token_protocol("ÿ?>~")]
    script = """
        client.options.protocols = ["own"];
        client.options.token = "abc";
        client.connect();
        return [last().offered, last().open().sent];
    """
    assert client(engine, script) == [["own", "ws-hub", "bearer.YWJj"], []]


def test_a_token_goes_first_of_all_messages_where_it_is_one(engine: Page) -> None:
    script = """
        Object.assign(client.options, {token: "abc", tokenIn: "message"});
        client.subscribe("c", () => {});
        client.connect(); last().open();
        return [last().offered, last().sent.map((m) => [m.type, m.data])];
    """
    assert client(engine, script) == [[], [["auth", "abc"], ["subscribe", "c"]]]


def test_a_token_that_is_promised_is_waited_for(engine: Page) -> None:
    script = """
        client.options.token = Promise.resolve("abc");
        client.connect();
        await promises();
        return sockets.map((s) => s.offered[1]);
    """
    assert client(engine, script) == [token_protocol("abc")]


def test_each_connection_gets_a_fresh_token(engine: Page) -> None:
    script = """
        let number = 0;
        client.options.token = async () => `t${++number}`;
        client.connect();
        await promises();
        last().open(); last().lose(); pass(1000);
        await promises();
        return [sockets.map((s) => s.offered[1]), states.map((s) => s.state)];
    """
    tokens = [token_protocol("t1"), token_protocol("t2")]
    states = ["connecting", "connected", "waiting", "connecting"]
    assert client(engine, script) == [tokens, states]


def test_a_token_that_does_not_come_is_asked_for_again(engine: Page) -> None:
    script = """
        const errors = [];
        client.addEventListener("error", ({detail}) => errors.push(String(detail.error)));
        let late;
        const tokens = [
          () => { throw new Error("none"); },
          () => new Promise((done) => (late = done)),
          () => "good",
        ];
        client.options.token = () => tokens.shift()();
        client.connect();
        await promises();
        const failed = client.state;
        pass(500);
        await promises();
        pass(10000);
        const given = client.state;
        pass(1000);
        await promises();
        late("too late");
        await promises();
        client.close();
        return [failed, given, errors, sockets.map((s) => s.offered[1])];
    """
    good = [token_protocol("good")]
    assert client(engine, script) == ["waiting", "waiting", ["Error: none"], good]


# --- the browser's own WebSocket -----------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "closed"),
    [
        ("1001", "InvalidAccessError"),
        ("2999", "InvalidAccessError"),
        ('3000, "x".repeat(124)', "SyntaxError"),
        ('3000, "é".repeat(62)', "SyntaxError"),
        ('3000, "x".repeat(123)', None),
    ],
)
def test_fault_96_a_close_that_a_page_may_not_say_closes_all_the_same(
    engine: Page, how: str, closed: str | None
) -> None:
    script = f"""
        let refused = null;
        globalThis.reportError = (error) => (refused = error.name);
        const real = new HubClient("/ws");
        real.connect();
        const socket = real._socket;
        real.close({how});
        return [refused, real.state, socket.readyState >= WebSocket.CLOSING];
    """
    assert client(engine, script) == [closed, "closed", True]


def test_fault_96_a_socket_that_cannot_be_made_is_the_end_of_a_token_function_too(
    engine: Page,
) -> None:
    script = """
        client.options.token = () => "abc";
        client.options.WebSocket = class {
          constructor() { told.push("made"); throw new Error("no"); }
        };
        client.connect();
        await promises();
        pass(100000);
        await promises();
        return [told, client.state, states.at(-1).code, states.at(-1).reason, timers.size];
    """
    assert client(engine, script) == [["made"], "closed", 1006, "no", 0]


@pytest.mark.parametrize("protocols", ['["own", "own", "ws-hub"]', '["own", "ws-hub"]'])
def test_fault_98_no_subprotocol_is_offered_twice(engine: Page, protocols: str) -> None:
    script = f"""
        Object.assign(client.options, {{protocols: {protocols}, token: "abc"}});
        client.connect();
        return last().offered;
    """
    assert client(engine, script) == ["own", "ws-hub", "bearer.YWJj"]


def test_fault_98_a_single_subprotocol_may_be_a_text(engine: Page) -> None:
    script = """
        client.options.protocols = "own";
        client.connect();
        return last().offered;
    """
    assert client(engine, script) == ["own"]
