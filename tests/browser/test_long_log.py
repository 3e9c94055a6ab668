"""A log of more lines than a document can hold: what is in view is there, and nothing is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser import rows
from tests.browser.chromium import Page
from tests.browser.conftest import Site
from tests.support import TIMEOUT
from ws_hub import Hub, serve
from ws_hub.page import page_app
from ws_hub.testing import FaultProxy

pytestmark = pytest.mark.browser

LOG = "document.getElementById('log')"
VIEW = f"{LOG}.logView"
LINES = rows.lines(LOG)
COUNT = "document.getElementById('count').textContent"
FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
# The rows that can be seen, each with where it begins, in pixels below the top of the log.
SEEN = """(() => {
  const log = document.getElementById("log").getBoundingClientRect();
  return [...document.querySelectorAll(".row:not(.pinned)")]
    .map((row) => [row.querySelector(".text").textContent, row.getBoundingClientRect()])
    .filter(([, box]) => box.bottom > log.top && box.top < log.top + log.height)
    .map(([text, box]) => [text, box.top - log.top, box.bottom - log.top]);
})()"""


@pytest.fixture
def fill(page: Page, site: Site) -> Callable[..., None]:
    """Open the page, and put lines into its log without a server: "line 1", "line 2" ..."""

    def put(count: int, text: str = "`line ${n}`") -> None:
        page.open(site.url)
        page.wait_for("document.getElementById('link').dataset.state === 'connected'")
        more(count, text)

    def more(count: int, text: str) -> None:
        page.eval(
            f"for (let n = 1; n <= {count}; n++)"
            f" {VIEW}.append({{runs: [{{text: {text}, style: null}}], time: n * 1e6}})"
        )
        page.wait_for(f"{SEEN}.at(-1)?.[0] === {LINES}.at(-1)")

    return put


def scroll(page: Page, place: str) -> list[list[float]]:
    """Scroll to a place, an expression of pixels; return what can be seen then."""
    page.eval(f"{LOG}.scrollTop = {place}")
    page.eval(f"{FRAME}.then(() => {FRAME})")
    seen: list[list[float]] = page.eval(SEEN)
    return seen


def check_whole(page: Page, seen: list[list[float]], first: int | None = None) -> list[int]:
    """Check that lines one after the other fill the view; return their numbers."""
    numbers = [int(str(text).split()[1]) for text, _, _ in seen]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for (_, _, bottom), (_, top, _) in zip(seen, seen[1:], strict=False):
        assert abs(bottom - top) < 0.5
    height = page.eval(f"{LOG}.clientHeight")
    assert seen[0][1] <= 6.5
    assert seen[-1][2] >= height - 10.5
    if first is not None:
        assert numbers[0] == first
    return numbers


@pytest.mark.parametrize("count", [5_000, 400_000])
def test_only_rows_near_the_view_are_in_the_document(
    page: Page, fill: Callable[..., None], count: int
) -> None:
    """Also where the log is higher than a browser lets an element be."""
    fill(count)
    assert page.eval("document.querySelectorAll('#log *').length") < 600
    end = f"{LOG}.scrollHeight - {LOG}.clientHeight"
    check_whole(page, page.eval(SEEN))
    for part in (0.5, 0.25, 0.9, 0.01):
        numbers = check_whole(page, scroll(page, f"{part} * ({end})"))
        assert abs(numbers[0] / count - part) < 0.01
        assert page.eval("document.querySelectorAll('#log *').length") < 600
    check_whole(page, scroll(page, "0"), 1)
    assert check_whole(page, scroll(page, end))[-1] == count
    assert page.eval(f"{VIEW}.following")


def test_a_log_of_any_height_scrolls_as_far_as_the_wheel_says(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(400_000)
    (first, *_) = check_whole(page, scroll(page, f"0.5 * {LOG}.scrollHeight"))
    for _ in range(5):
        page.wheel(600, 400, 190)
        page.wait_for(f"Number({SEEN}[0][0].split(' ')[1]) === {first + 10}")
        (first, *_) = check_whole(page, page.eval(SEEN))


def test_rows_of_any_height_stay_where_they_are_while_their_neighbours_are_measured(
    page: Page, fill: Callable[..., None]
) -> None:
    # What is expected of a row is wrong: these words leave the end of each line free.
    fill(3_000, "`line ${n} ` + 'a-long-word-'.repeat(9).concat(' ').repeat(n % 7)")
    check_whole(page, scroll(page, f"0.5 * {LOG}.scrollHeight"))
    for _ in range(6):
        before = {text: top for text, top, _ in page.eval(SEEN)}
        page.wheel(600, 400, -100)
        page.wait_for(f"{SEEN}[0][0] !== {next(iter(before))!r} || {SEEN}[0][1] > -400")
        page.eval(f"{FRAME}.then(() => {FRAME}).then(() => {FRAME})")
        seen = page.eval(SEEN)
        check_whole(page, seen)
        moves = {round(top - before[text]) for text, top, _ in seen if text in before}
        assert len(moves) == 1, moves
    page.key("w")
    page.eval(f"{FRAME}.then(() => {FRAME})")
    check_whole(page, page.eval(SEEN))


def test_what_comes_and_goes_elsewhere_moves_nothing_in_view(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(20_000)
    page.eval(f"{VIEW}.store.maxLines = 20_000")
    before = scroll(page, f"0.5 * {LOG}.scrollHeight")
    check_whole(page, before)
    put = (
        f"for (let n = 20_001; n <= 25_000; n++)"
        f" {VIEW}.append({{runs: [{{text: `line ${{n}}`, style: null}}]}})"
    )
    page.eval(put)
    page.wait_for(f"{VIEW}.cut > 4000 && {COUNT} === '25,000 lines'")  # it has drawn them
    after = page.eval(SEEN)
    assert [text for text, _, _ in after] == [text for text, _, _ in before]
    assert abs(after[0][1] - before[0][1]) < 1
    assert page.eval(f"{VIEW}.unread") == 5000


@pytest.mark.parametrize("count", [20_000, 400_000])
def test_scrolling_while_lines_come_in_front_goes_as_far_as_it_says(
    page: Page, fill: Callable[..., None], count: int
) -> None:
    fill(count)
    before = scroll(page, f"Math.round(0.5 * {LOG}.scrollHeight)")
    (first, *_) = check_whole(page, before)
    for _ in range(3):
        page.eval(
            f"{VIEW}.prepend(Array.from({{length: 1000}}, () =>"
            " ({runs: [{text: 'older', style: null}]})), 1000);"
            f"{LOG}.scrollTop += 95;"
        )
        page.eval(f"{FRAME}.then(() => {FRAME})")
        first += 5
        seen = page.eval(SEEN)
        assert abs(seen[0][1] - before[0][1]) <= 1
        check_whole(page, seen, first)


def test_home_and_end_go_to_the_first_and_the_last_line(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(400_000)
    page.eval(f"{LOG}.focus()")
    page.key("Home")
    page.wait_for(f"{SEEN}[0][0] === 'line 1'")
    assert not page.eval(f"{VIEW}.following")
    page.key("End")
    page.wait_for(f"{SEEN}.at(-1)[0] === 'line 400000'")
    assert page.eval(f"{VIEW}.following")


COPIED = """(() => {
  let text = null;
  const keep = (event) => (text = event.clipboardData.getData("text/plain"));
  document.addEventListener("copy", keep);
  document.execCommand("copy");
  document.removeEventListener("copy", keep);
  return text;
})()"""


def test_what_is_copied_is_all_that_is_selected_in_the_document_or_not(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(5_000)
    scroll(page, "0")
    page.eval("getSelection().setPosition(document.querySelector('.row .text').firstChild, 2)")
    page.eval(FRAME)
    text = "[...document.querySelectorAll('.row:not(.pinned) .text')].at(-1).firstChild"
    page.eval(f"getSelection().extend({text}, 4)")
    scroll(page, f"0.5 * {LOG}.scrollHeight")
    assert page.eval("document.querySelectorAll('.row.pinned').length") == 2
    number = page.eval(f"getSelection().extend({text}, 4) ?? {text}.data.split(' ')[1]")
    scroll(page, f"0.7 * {LOG}.scrollHeight")
    copied = page.eval(COPIED).split("\n")
    between = [f"line {n}" for n in range(2, int(number))]
    assert copied == ["ne 1", *between, "line"]
    page.eval("getSelection().removeAllRanges()")
    page.wait_for("document.querySelectorAll('.row.pinned').length === 0")


def test_all_lines_are_selected_and_copied(page: Page, fill: Callable[..., None]) -> None:
    fill(5_000)
    page.eval(f"{LOG}.focus()")
    page.key("a", control=True)
    assert page.eval(COPIED) == "\n".join(f"line {n}" for n in range(1, 5_001))
    assert page.eval("getSelection().toString().includes('Follow')") is False


def test_a_reader_of_the_screen_is_told_which_of_the_rows_are_here(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(5_000)
    scroll(page, f"0.5 * {LOG}.scrollHeight")
    found = page.eval(
        "[...document.querySelectorAll('.row')].map((row) => [row.getAttribute('role'),"
        " row.textContent, row.ariaPosInSet, row.ariaSetSize])"
    )
    assert {role for role, *_ in found} == {"listitem"}
    assert all(text == f"line {position}" for _, text, position, _ in found)
    assert {size for *_, size in found} == {"5000"}


def test_folded_rows_take_no_room_and_are_shown_again(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(5_000, "{10: '::group::x', 4000: '::endgroup::'}[n] ?? `line ${n}`")
    page.eval(f"{VIEW}.toStart()")
    page.wait_for(f"{SEEN}[10]?.[0] === 'line 4001'")
    assert page.eval(f"{LOG}.scrollHeight") < 1100 * 20
    assert page.eval(f"{VIEW}.text().split('\\n').length") == 5_001
    page.eval(f"{VIEW}.outline.setMode('open')")
    page.wait_for(f"{SEEN}[10]?.[0] === 'line 11'")


def test_what_hangs_on_the_log_is_called_for_the_rows_that_are_shown(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(5_000)
    page.eval(
        f"window.called = 0; {VIEW}.decorators.push((row, element) => {{"
        " called += 1; element.classList.toggle('even', row.number % 2 === 0); })"
    )
    page.eval(f"{VIEW}.timeText = (row, before) => `${{(row.time - before.time) / 1e6}} s`")
    page.eval(f"{VIEW}.repaint()")
    page.wait_for("called > 0")
    assert page.eval("called") < 300
    assert page.eval("document.querySelectorAll('.row.even').length") > 10
    page.wait_for("document.querySelector('.row .gutter')?.dataset.t === '1 s'")


def test_lines_that_change_far_back_keep_their_colours_and_their_neighbours(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(5_000)
    found = page.eval(
        f"""(() => {{
          const {{store}} = {VIEW};
          const style = {{fg: 2, bg: null, bold: true}};
          const run = (text, style = null) => ({{text, style}});
          const id = store.find(700);
          {VIEW}.replace(id, {{runs: [run("é✓ ", style), run("done")], time: 5, cut: 7}});
          {VIEW}.insert({{runs: [run("between", style)]}}, id);
          for (let n = 0; n < 5000; n++) {VIEW}.append({{runs: [run("more")]}});
          const row = store.row(id);
          const at = store.position(id);
          const near = [-2, -1, 0, 1].map((by) => store.at(at + by));
          return [row.text, row.runs, row.time, row.cut, row.number,
            near.map(({{chunk, index}}) => store.read(chunk, index).text)];
        }})()"""
    )
    style = {"fg": 2, "bg": None, "bold": True}
    runs = [{"text": "é✓ ", "style": style}, {"text": "done", "style": None}]
    near = ["line 699", "between", "é✓ done", "line 701"]
    assert found == ["é✓ done", runs, 5, 7, 700, near]


# --- search --------------------------------------------------------------------------------

FOUND = "document.getElementById('found').textContent"


def test_all_lines_are_searched_and_marked_beside_the_scrollbar(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(100_000)
    page.key("f", control=True)
    page.type("LINE 7777")
    page.wait_for(f"{FOUND} === '–/11' && !{VIEW}.searching")
    page.key("Enter")
    page.wait_for(f"{SEEN}.some(([text]) => text === 'line 7777')")
    marks = (
        "(() => { const c = document.querySelector('.strip canvas');"
        " const {data} = c.getContext('2d').getImageData(0, 0, 1, c.height);"
        " return [...data].flatMap((v, i) =>"
        " (i % 4 === 3 && v ? [(i - 3) / 4 / c.height] : [])); })()"
    )
    marked = page.eval(marks)
    assert all(min(abs(mark - 0.078), abs(mark - 0.778)) < 0.02 for mark in marked)
    assert min(marked) < 0.1 < 0.7 < max(marked)
    page.key("Escape")
    page.wait_for("document.querySelector('.strip').hidden")
    page.key("f", control=True)
    page.eval("document.getElementById('case').click()")
    page.type("LINE 7777")
    page.wait_for(f"{FOUND} === 'none'")


def test_a_regular_expression_finds_lines_and_their_places(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(20_000)
    page.eval("document.getElementById('regex').click()")
    page.key("/")
    page.type("^line (1|2)0{4}$|ne 5\\d$")
    page.wait_for(f"{FOUND} === '–/12' && !{VIEW}.searching")
    page.eval(f"{VIEW}.append({{runs: [{{text: 'line 59', style: null}}]}})")
    page.wait_for(f"{FOUND} === '–/13'")
    page.key("Enter", shift=True)
    page.wait_for(f"{FOUND} === '13/13'")
    page.wait_for(
        "[...(CSS.highlights.get('found') ?? [])].some((range) => `${range}` === 'ne 59')"
    )
    page.key("Escape")
    page.key("/")
    page.type("a(b")
    page.wait_for(f"{FOUND} === 'this is no regular expression'")


def test_an_expression_that_takes_for_ever_is_ended_and_the_page_stays_alive(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(50)
    page.eval(f"{VIEW}.append({{runs: [{{text: 'a'.repeat(60) + '!', style: null}}]}})")
    page.eval("document.getElementById('regex').click()")
    page.key("/")
    page.type("^(a+)+$")
    page.eval("new Promise((done) => requestAnimationFrame(done))")
    page.wait_for(f"{FOUND} === 'this expression takes too long'")
    page.eval("document.getElementById('query').value = ''")
    page.type("ne 7")
    page.wait_for(f"{FOUND} === '–/1'")


def test_no_expression_takes_too_long_while_the_file_of_its_worker_is_loaded(page: Page) -> None:
    sent = threading.Event()
    with Hub() as hub:
        pages = page_app(hub, channel="process:build")

        def app(environ: dict[str, Any], start_response: Any) -> Any:
            if "search_worker" in environ["PATH_INFO"]:
                assert sent.wait(TIMEOUT)
            return pages(environ, start_response)

        with serve(hub, port=0, app=app) as server:
            hub.send_process_output("build", "line 7")
            page.open(f"http://127.0.0.1:{server.port}/")
            page.wait_for(f"{LINES}.length === 1")
            page.eval("document.getElementById('regex').click()")
            page.eval(
                "window.late = []; const own = setTimeout; window.setTimeout = (act, time) =>"
                " (time === 3000 ? late.push(act) && 0 : own(act, time));"
            )
            page.key("/")
            page.type("^line .$")
            page.wait_for(f"{FOUND} === '…'")
            page.eval("late.forEach((act) => act())")
            assert page.eval(f"{VIEW}.searchError") == ""
            sent.set()
            page.wait_for(f"{FOUND} === '–/1'")


# --- links to lines, and keys --------------------------------------------------------------

LINKED = "[...document.querySelectorAll('.row.linked')].map((row) => row.dataset.n).join()"


def test_an_address_names_lines(page: Page, site: Site) -> None:
    site.hub.send_process_lines("build", [f"line {number}" for number in range(1, 3001)])
    page.open(site.url + "#L1200-L1202")
    page.wait_for(f"{LINKED} === '1200,1201,1202'")
    # The newest lines come first, and have no numbers until those before them are there.
    page.wait_for("document.querySelector('.row.linked .text')?.textContent === 'line 1200'")
    assert not page.eval(f"{VIEW}.following")
    page.eval("document.querySelector('.row.linked .gutter').click()")
    page.wait_for(f"{LINKED} === '1200'")
    assert page.eval("location.hash") == "#L1200"
    page.eval(
        "document.querySelector('.gutter[data-n=\"1204\"]').dispatchEvent("
        "new MouseEvent('click', {shiftKey: true, bubbles: true, cancelable: true}))"
    )
    page.wait_for(f"{LINKED} === '1200,1201,1202,1203,1204'")
    assert page.eval("location.hash") == "#L1200-L1204"
    page.key(":")
    page.wait_for("document.activeElement.id === 'goto-line'")
    page.type("7")
    page.key("Enter")
    page.wait_for(f"{LINKED} === '7' && location.hash === '#L7'")
    page.eval("location.hash = '#L2500'")
    page.wait_for(f"{LINKED} === '2500'")


def test_a_line_that_an_address_names_is_waited_for(page: Page, site: Site) -> None:
    page.open(site.url + "#L3")
    page.wait_for("document.getElementById('link').dataset.state === 'connected'")
    site.hub.send_process_lines("build", ["one", "two"])
    page.wait_for(f"{LINES}.length === 2")
    assert page.eval(LINKED) == ""
    site.hub.send_process_lines("build", ["three", "four"])
    page.wait_for(f"{LINKED} === '3'")


def test_each_key_is_told_and_does_what_it_says(page: Page, fill: Callable[..., None]) -> None:
    fill(1_000)
    page.key("?")
    page.wait_for("document.getElementById('help').open")
    keys = page.eval("[...document.querySelectorAll('#help kbd')].map((each) => each.textContent)")
    assert "".join(keys).startswith("/nNgG:fwteEjJ[]cls?")
    page.key("Escape")
    page.wait_for("!document.getElementById('help').open")
    page.key("g")
    page.wait_for(f"{SEEN}[0][0] === 'line 1'")
    page.key("G")
    page.wait_for(f"{VIEW}.following && {SEEN}.at(-1)[0] === 'line 1000'")
    page.key("a", control=True)
    assert page.eval(f"{VIEW}.selectedText().length") == len(
        "\n".join(f"line {number}" for number in range(1, 1001))
    )


# --- opened late ---------------------------------------------------------------------------


@pytest.mark.parametrize("numbered", [True, False])
def test_the_end_is_seen_first_and_what_is_before_it_follows(
    page: Page, site: Site, numbered: bool
) -> None:
    texts = [f"line {number}" for number in range(1, 9_001)]
    site.hub.send_process_status("build", "running")
    for start in range(0, 9_000, 500):
        numbers = range(start + 1, start + 501) if numbered else None
        site.hub.send_process_lines("build", texts[start : start + 500], numbers=numbers)
    # The numbers of the rows that the page has shown before all of them were there.
    page.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
            window.shown = [];
            const look = () => {
                const view = document.getElementById("log")?.logView;
                const last = document.querySelector(".row:last-child");
                if (view?.count && view.count < 9000 && last) shown.push(last.textContent);
            };
            new MutationObserver(look).observe(document, {subtree: true, childList: true});
        """,
    )
    page.open(site.url)
    page.wait_for(f"{LINES}.length === 9000 && !{VIEW}.store.provisional")
    assert page.eval(LINES) == texts
    assert page.eval("document.title") == "● build · running"
    page.wait_for(f"{COUNT} === '9,000 lines'")
    page.wait_for("document.getElementById('cut').textContent === ''")
    shown = [int(text.split()[1]) for text in page.eval("shown")]
    assert min(shown) > 7_000
    assert max(shown) == 9_000
    numbers = f"[1, 4500, 9000].map((n) => {VIEW}.store.row({VIEW}.store.find(n)).text)"
    assert page.eval(numbers) == ["line 1", "line 4500", "line 9000"]
    site.hub.send_process_lines("build", ["the end"], numbers=[9_001] if numbered else None)
    page.wait_for(f"{LINES}.at(-1) === 'the end'")
    assert page.eval(f"{VIEW}.total") == 9_001
    page.wait_for("document.querySelector('.row:last-child').dataset.n === '9001'")


# No page of the history comes, until `go` is set and the connection is another.
HELD = """
    window.asked = 0; // for pages of the history
    const Own = WebSocket;
    window.WebSocket = class extends Own {
        send(text) {
            if (window.go || !text.includes('"history"')) super.send(text);
            else asked += 1;
        }
    };
"""


def test_a_connection_that_is_lost_while_older_lines_are_loaded_gives_no_wrong_numbers(
    page: Page, site: Site
) -> None:
    site.hub.send_process_lines("build", [f"line {number}" for number in range(1, 5_001)])
    page.call("Page.addScriptToEvaluateOnNewDocument", source=HELD)
    page.open(site.url)
    page.wait_for("asked > 0")
    before = page.eval("asked")
    (client,) = site.hub.all_clients()
    client.close()
    said = "document.getElementById('banner-text').textContent"
    page.wait_for(f"{said} === 'Reconnected, nothing was missed.' && asked > {before}")
    page.eval("new Promise((done) => requestAnimationFrame(done))")
    assert page.eval("document.querySelector('.row:last-child').dataset.n ?? null") is None
    page.eval("window.go = true")
    for client in site.hub.all_clients():
        client.close()
    page.wait_for(f"{LINES}.length === 5000")
    page.wait_for("document.querySelector('.row:last-child').dataset.n === '5000'")


PAINTED = """
    window.painted = 0; // lines that were there when the last one was first drawn
    const look = () => {
        const view = document.getElementById("log")?.logView;
        const last = document.querySelector(".row:last-child .text");
        if (view?.following && last?.textContent === END) painted ||= view.count;
    };
    new MutationObserver(look).observe(document, {subtree: true, childList: true});
    const own = setTimeout; // the page waits for its frame, however long a slow machine takes
    window.setTimeout = (act, time, ...rest) => (time === 2000 ? 0 : own(act, time, ...rest));
"""


def test_the_first_screen_takes_a_few_files_and_messages(page: Page, site: Site) -> None:
    for start in range(0, 5_000, 500):
        numbers = range(start + 1, start + 501)
        site.hub.send_process_lines("build", [f"line {n}" for n in numbers], numbers=numbers)
    source = f'const END = "line 5000"; {PAINTED}'
    page.call("Page.addScriptToEvaluateOnNewDocument", source=source)
    page.open(site.url)
    page.wait_for(f"{LINES}.length === 5000")
    assert page.eval("painted") == 200
    names = page.eval("performance.getEntriesByType('resource').map((each) => each.name)")
    files = {name.removeprefix(site.url).partition("?")[0] for name in names}
    shown = {each for each in files if not each.endswith(".svg")}
    assert shown == {"static/viewer.css", "static/page.js", "ws_hub.js"}
    page.open(site.url + "?again")
    page.wait_for(f"{LINES}.length === 5000")
    sent = page.eval(
        "performance.getEntriesByType('resource')"
        ".filter((each) => each.transferSize).map((each) => each.name)"
    )
    assert [name for name in sent if not name.endswith(".svg")] == []


@pytest.mark.parametrize("behind", [200, 1200])  # messages: what is replayed, and one page more
def test_runs_edits_and_long_lines_are_whole_however_the_history_is_cut(
    page: Page, site: Site, behind: int
) -> None:
    last = 1500 + behind - 2
    send = site.hub.send_process_lines
    site.hub.send_process_status("build", "running")
    send("build", [f"first {n}" for n in range(1, 1501)], numbers=range(1, 1501))
    site.hub.send_process_status("build", "exited", 1)
    site.hub.send_process_status("build", "running")
    send("build", [f"second {n}" for n in range(1, 1500)], numbers=range(1, 1500))
    # A line in two pieces, of which the newer part of the history begins with the second.
    send("build", ["head \x17", "tail"], numbers=[1500, 1500])
    send("build", [f"second {n}" for n in range(1501, last)], numbers=range(1501, last))
    # An edit of a line far above, which the older part has as it was.
    send("build", ["second 1499, edited", "the end"], numbers=[1499, last])
    page.open(site.url)
    page.wait_for(f"{LINES}.length === {1500 + last}")
    lines = page.eval(LINES)
    second = [f"second {n}" for n in range(1, 1499)]
    assert lines[:1500] == [f"first {n}" for n in range(1, 1501)]
    assert lines[1500:2998] == second
    assert lines[2998:3001] == ["second 1499, edited", "head tail", "second 1501"]
    assert lines[-1] == "the end"
    assert page.eval(f"{VIEW}.total") == 1500 + last
    notes = page.eval(rows.notes(LOG))
    assert len(notes) == 2
    assert notes[0].startswith("exited 1")
    assert notes[1] == "started again"
    send("build", ["second 1499, edited again"], numbers=[1499])
    page.wait_for(f"{LINES}[2998] === 'second 1499, edited again'")
    assert page.eval(f"{LINES}.length") == 1500 + last


def test_a_line_that_changes_before_it_is_loaded_is_there_once(page: Page, site: Site) -> None:
    """The last of those that are loaded."""
    texts = [f"line {n}" for n in range(1, 501)]
    site.hub.send_process_lines("build", texts, numbers=range(1, 501))
    page.call("Page.addScriptToEvaluateOnNewDocument", source=HELD)
    page.open(site.url)
    page.wait_for("asked > 0")
    site.hub.send_process_lines("build", ["changed"], numbers=[300])
    page.wait_for(f"{LINES}[0] === 'changed'")
    page.eval("window.go = true")
    for client in site.hub.all_clients():
        client.close()
    page.wait_for(f"{LINES}.length >= 500 && !{VIEW}.store.provisional")
    assert page.eval(LINES) == [*texts[:299], "changed", *texts[300:]]


def test_a_run_that_begins_where_the_history_is_cut_keeps_its_lines(page: Page, site: Site) -> None:
    """The first of the 200 messages that come at once is the status of the second run."""
    send = site.hub.send_process_lines
    site.hub.send_process_status("build", "running")
    send("build", [f"first {n}" for n in range(1, 301)], numbers=range(1, 301))
    site.hub.send_process_status("build", "running")
    send("build", [f"second {n}" for n in range(1, 200)], numbers=range(1, 200))
    page.open(site.url)
    page.wait_for(f"{LINES}.length === 499 && !{VIEW}.store.provisional")
    texts = [f"first {n}" for n in range(1, 301)] + [f"second {n}" for n in range(1, 200)]
    assert page.eval(LINES) == texts
    assert page.eval(rows.notes(LOG)) == ["started again"]
    assert page.eval(f"{VIEW}.total") == 499


def test_lines_are_counted_where_the_history_is_cut_at_the_end_of_a_run(
    page: Page, site: Site
) -> None:
    send = site.hub.send_process_lines
    site.hub.send_process_status("build", "running")
    send("build", [f"first {n}" for n in range(1, 301)], numbers=range(1, 301))
    site.hub.send_process_status("build", "exited", 0)
    send("build", [f"second {n}" for n in range(1, 200)], numbers=range(1, 200))
    page.open(site.url)
    page.wait_for(f"{LINES}.length === 499 && !{VIEW}.store.provisional")
    assert page.eval(f"{VIEW}.total") == 499


def test_a_line_without_a_number_counts_once_where_the_history_is_cut_within(
    page: Page, site: Site
) -> None:
    send = site.hub.send_process_lines
    send("build", [*(f"line {n}" for n in range(1, 301)), "half \x17"])
    send("build", ["done", *(f"line {n}" for n in range(302, 501))])
    page.open(site.url)
    page.wait_for(f"{LINES}.length === 500 && !{VIEW}.store.provisional")
    assert page.eval(LINES)[300] == "half done"
    site.hub.send_process_output("build", "the end")
    page.wait_for("document.querySelector('.row:last-child').dataset.n === '501'")


def send_numbered(site: Site, first: int, last: int) -> None:
    for start in range(first, last + 1, 500):
        numbers = range(start, min(start + 500, last + 1))
        texts = [f"line {number}" for number in numbers]
        site.hub.send_process_lines("build", texts, numbers=numbers)


@pytest.mark.parametrize("again", [False, True])
def test_a_page_far_behind_passes_over_and_loads_that_when_asked(
    page: Page, make_site: Callable[..., Site], again: bool
) -> None:
    """Also where the program was started again meanwhile, and counts from 1."""
    site = make_site("process:build", history=100_000)
    with FaultProxy("127.0.0.1", site.server.port) as proxy:
        site.hub.send_process_status("build", "running")
        send_numbered(site, 1, 8_000)
        page.open(f"http://127.0.0.1:{proxy.port}/")
        page.wait_for(f"{LINES}.length === 8000")
        proxy.refuse()
        proxy.reset()
        page.wait_for("!document.getElementById('banner').hidden")
        if again:
            send_numbered(site, 8_001, 27_000)
            site.hub.send_process_status("build", "exited", 0)
            site.hub.send_process_status("build", "running")
            send_numbered(site, 1, 6_000)
        else:
            send_numbered(site, 8_001, 33_000)
        proxy.accept()
        page.eval("document.getElementById('retry').click()")
        last = 6_000 if again else 33_000
        page.wait_for(f"{LINES}.at(-1) === 'line {last}'")
        page.wait_for(f"{VIEW}.count === 10_000")
        what = "23,002 messages" if again else "23,000 lines"
        assert page.eval(rows.notes(LOG)) == [f"This page fell behind: {what} not shown"]
        gone = "document.getElementById('cut').textContent"
        page.wait_for(f"{gone}.startsWith('{what} ')")
        page.eval(f"{VIEW}.reveal([...{VIEW}.store.all()].find((row) => row.gap).id)")
        page.wait_for("document.querySelector('.load')?.textContent === 'load them'")
        page.eval("document.querySelector('.load').click()")
        page.wait_for(f"{VIEW}.count === 33_000 && {gone} === ''")
    first = 27_000 if again else 33_000
    expected = [f"line {n}" for n in [*range(1, first + 1), *range(1, 33_001 - first)]]
    assert page.eval(LINES) == expected
    assert page.eval(f"{VIEW}.total") == 33_000
    assert page.eval("document.querySelectorAll('.load').length") == 0


def test_what_was_passed_over_is_not_loaded_from_a_server_that_has_started_anew(
    page: Page, make_site: Callable[..., Site]
) -> None:
    """Its numbers are of other messages."""
    site = make_site("process:build", history=100_000)
    with FaultProxy("127.0.0.1", site.server.port) as proxy:
        send_numbered(site, 1, 3_000)
        page.open(f"http://127.0.0.1:{proxy.port}/")
        page.wait_for(f"{LINES}.length === 3000")
        proxy.refuse()
        proxy.reset()
        page.wait_for("!document.getElementById('banner').hidden")
        send_numbered(site, 3_001, 28_000)
        proxy.accept()
        page.eval("document.getElementById('retry').click()")
        page.wait_for(f"{LINES}.at(-1) === 'line 28000'")
        page.eval(f"{VIEW}.reveal([...{VIEW}.store.all()].find((row) => row.gap).id)")
        page.wait_for("document.querySelector('.load')?.textContent === 'load them'")
        site.close()
        site.open()
        send_numbered(site, 1, 5_000)
        page.eval("document.getElementById('retry').click()")
        page.wait_for(f"{LINES}.at(-1) === 'line 5000'")
        page.wait_for("document.querySelectorAll('.load').length === 0")


# --- levels --------------------------------------------------------------------------------

LEVELS = {
    "2026-02-20 12:00:00 INFO started": 2,
    '{"level":"warn","msg":"slow"}': 3,
    '{"time":1,"level":50,"msg":"bad"}': 4,
    '{"severity": "DEBUG"}': 1,
    '{"msg": "ERROR"}': 0,
    '{"level":"constructor"}': 0,
    "level=constructor": 0,
    "ts=1 level=error msg=x": 4,
    "[warning] disk": 3,
    "main.c:3:1: error: no such": 4,
    "an error that is no level": 0,
    "INFORMATION": 0,
    "no error here, but WARN": 3,
    "plain": 0,
}


def test_a_level_is_taken_from_what_loggers_write(page: Page, site: Site) -> None:
    page.open(site.url)
    found = page.eval(
        "import('/static/levels.js').then(({levelOf}) =>"
        f" {json.dumps(list(LEVELS))}.map((text) => levelOf(text)))"
    )
    assert dict(zip(LEVELS, found, strict=True)) == LEVELS


def test_lines_below_a_level_are_hidden_also_those_that_come(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(20_000, "n % 1000 ? `line ${n}` : `ERROR line ${n}`")
    page.key("l")
    page.key("l")
    page.wait_for("document.querySelectorAll('.row').length === 20")
    page.eval(
        f"for (const text of ['WARN line 7', '  at line 8', 'INFO line 9', '  line 10'])"
        f" {VIEW}.append({{runs: [{{text, style: null}}]}})"
    )
    page.wait_for("document.querySelectorAll('.row').length === 22")
    shown = page.eval(
        "[...document.querySelectorAll('.row .text')].map((each) => each.textContent)"
    )
    assert shown[-3:] == ["ERROR line 20000", "WARN line 7", "  at line 8"]
    said = "document.getElementById('cut').textContent"
    page.wait_for(f"{said} === '19,982 lines of other levels are hidden'")
    assert len(page.eval(LINES)) == 20_004
    page.key("/")
    page.type("line")
    page.wait_for(f"{FOUND} === '–/22'")
    page.key("Escape")
    page.eval(f"{LOG}.focus()")
    page.key("l")
    page.key("l")
    page.wait_for(f"{SEEN}.at(-1)?.[0] === '  line 10' && {said} === ''")


def test_an_indented_line_goes_with_the_one_that_comes_before_it_later(
    page: Page, fill: Callable[..., None]
) -> None:
    fill(5_000, "{1: '  at line 1', 5000: 'ERROR line 5000'}[n] ?? `line ${n}`")
    page.eval(f"{VIEW}.levels.set(3)")
    page.wait_for(f"String({SEEN}.map(([text]) => text)) === 'ERROR line 5000'")
    page.eval(f"{VIEW}.prepend([{{runs: [{{text: 'ERROR line 0', style: null}}]}}], 1)")
    page.wait_for(
        f"String({SEEN}.map(([text]) => text)) === 'ERROR line 0,  at line 1,ERROR line 5000'"
    )
