"""The examples with pages, each started by the command of examples/README.md."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Browser, Page
from tests.browser.conftest import tab
from tests.integration.apps.launch import command

pytest.importorskip("flask")
# The examples are tested here; what of ws_hub they use has tests of its own.
pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
README = (ROOT / "examples" / "README.md").read_text("utf-8")
NARROW = 390  # pixels: a phone
LOG = "document.querySelector('ws-hub-log').shadowRoot.querySelector('[role=log]').textContent"

Run = Callable[..., str]


@contextlib.contextmanager
def example(name: str, port: str = "0") -> Iterator[str]:
    """Run an example, by default on a free port; yield its URL. It ends as by Ctrl-C."""
    (words,) = re.findall(rf"`(flask --app examples/{name}/app run)`", README)
    with command([sys.executable, "-m", *shlex.split(words), "--port", port]) as server:
        yield f"http://{server.host}:{server.port}/"
        server.stop(signal.SIGINT)
        assert "Traceback" not in server.log(), server.log()


@pytest.fixture
def run() -> Iterator[Run]:
    """Run an example until the test ends; return its URL."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(example(name))


@contextlib.contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    """Yield the page of another visitor."""
    with tab(browser) as page:
        page.open(url)
        yield page


def press(page: Page, name: str) -> None:
    """Press the first button with this text that can be pressed, as soon as there is one."""
    buttons = "[...document.querySelectorAll('button:enabled')]"
    button = f"{buttons}.find((each) => each.textContent === '{name}')"
    page.wait_for(f"{button} !== undefined")
    page.eval(f"{button}.click()")


def check_width(page: Page) -> None:
    """Fail where a phone would have to scroll sideways."""
    page.resize(NARROW, 844, mobile=True)
    page.wait_for(f"innerWidth === {NARROW}")
    assert page.eval("document.documentElement.scrollWidth") == NARROW


def test_the_documents_name_the_same_commands() -> None:
    pattern = r"flask --app examples/\w+/app run"
    page = (ROOT / "docs" / "examples.md").read_text("utf-8")
    assert re.findall(pattern, page) == re.findall(pattern, README)
    folders = {path.parent.name for path in (ROOT / "examples").glob("*/app.py")}
    assert {each.split("/")[1] for each in re.findall(pattern, README)} == folders
    for name in folders:
        files = [*(ROOT / "examples" / name).glob("*.py"), ROOT / "examples" / name / "page.html"]
        assert sum(len(path.read_text("utf-8").splitlines()) for path in files) < 125, name
        assert "innerHTML" not in files[-1].read_text("utf-8")


# --- build log -----------------------------------------------------------------------------


def test_build_log_shows_a_build_to_a_visitor_who_comes_late(
    browser: Browser, page: Page, run: Run
) -> None:
    url = run("build_log")
    page.open(url)
    press(page, "Build")
    page.wait_for(f"{LOG}.includes('compiling planner')")
    with opened(browser, url) as late:
        late.wait_for(f"{LOG}.includes('compiling parser')")
        for each in page, late:
            each.wait_for("result.textContent === 'built'")
            each.wait_for(f"{LOG}.includes('exited 0')")  # at the next frame
            shown = each.eval(LOG)
            assert shown.count("compiling") == 5
            assert shown.count("100%") == shown.count("linking") == 1  # one bar, which moved
    check_width(page)


def test_build_log_stops_a_build(page: Page, run: Run) -> None:
    page.open(run("build_log"))
    press(page, "Build")
    page.wait_for(f"{LOG}.includes('compiling parser')")
    press(page, "Stop")
    page.wait_for("result.textContent === 'exited: SIGTERM'")
    assert page.eval("build.disabled") is False
    assert page.eval("document.title") == "✘ Build log"


# --- chat ----------------------------------------------------------------------------------

SAID = "[...said.children].map((line) => [...line.childNodes].map((part) => part.textContent))"


def write(page: Page, field: str, text: str) -> None:
    """Type into a field, and press Enter."""
    page.eval(f"{field}.focus()")
    page.type(text)
    page.key("Enter")


def test_chat_shows_what_is_said_and_who_is_there(browser: Browser, page: Page, run: Run) -> None:
    url = run("chat")
    page.open(url)
    write(page, "document.getElementById('name')", "ann")
    page.wait_for("present.textContent === 'ann'")
    write(page, "text", "<b>hello</b>")
    page.wait_for("said.children.length === 1")
    with opened(browser, url) as other:
        write(other, "document.getElementById('name')", "bob")
        for each in page, other:
            each.wait_for("present.textContent === 'ann, bob'")
        other.wait_for("said.children.length === 1")  # from before
        write(other, "text", "hello, ann")
        for each in page, other:
            each.wait_for("said.children.length === 2")
            assert each.eval(SAID) == [["ann", "<b>hello</b>"], ["bob", "hello, ann"]]
        press(other, "Coffee")
        page.wait_for("present.textContent === 'ann'")
        other.wait_for("present.textContent === 'bob'")
        assert other.eval(SAID) == []
        press(other, "Tea")
        other.wait_for("said.children.length === 2")
        page.wait_for("present.textContent === 'ann, bob'")
    page.wait_for("present.textContent === 'ann'")  # the other's page is closed
    check_width(page)


# --- jobs ----------------------------------------------------------------------------------

STATES = "[...jobs.children].map((job) => job.querySelector('span').textContent)"


def test_jobs_show_their_progress_to_a_visitor_who_comes_late(
    browser: Browser, page: Page, run: Run
) -> None:
    url = run("jobs")
    page.open(url)
    page.eval("for (let n = 0; n < 5; n++) start.click()")
    page.wait_for("jobs.children.length === 5")
    assert page.eval("jobs.querySelector('b').textContent") == "Job 5"
    press(page, "Cancel")  # the newest, which waits for a thread
    page.wait_for("[...jobs.querySelectorAll('progress')].some((bar) => bar.value > 1)")
    with opened(browser, url) as late:
        for each in page, late:
            each.wait_for(f"{STATES}.join() === 'cancelled,done,done,done,done'")
            bars = each.eval("[...jobs.querySelectorAll('progress')].map((bar) => bar.position)")
            assert bars == [0, 1, 1, 1, 1]
            assert each.eval("jobs.querySelectorAll('button:not([hidden])').length") == 0
    check_width(page)


def test_jobs_begin_anew_when_the_server_is_restarted(page: Page) -> None:
    with example("jobs") as url:
        page.open(url)
        press(page, "Start a job")
        press(page, "Cancel")
        page.wait_for(f"{STATES}.join() === 'cancelled'")
    page.wait_for("state.textContent.startsWith('No connection')")
    with example("jobs", port=url.rstrip("/").rpartition(":")[2]):
        # By a name that is not there while the page loads itself anew.
        page.wait_for(
            "document.readyState === 'complete'"
            " && document.getElementById('jobs')?.children.length === 0"
        )
        press(page, "Start a job")
        page.wait_for("jobs.querySelector('b')?.textContent === 'Job 1'")
        press(page, "Cancel")
        page.wait_for(f"{STATES}.join() === 'cancelled'")


# --- tokens --------------------------------------------------------------------------------

TOKENS = "answer.textContent.split(' ').length"


def test_llm_stream_goes_on_in_a_second_tab_from_the_first_token(
    browser: Browser, page: Page, run: Run
) -> None:
    url = run("llm_stream")
    page.open(url)
    write(page, "document.getElementById('prompt')", "Why <b>not</b>?")
    page.wait_for(f"{TOKENS} > 5")
    with opened(browser, page.eval("link.href")) as second:
        second.wait_for(r"/^You asked: Why <b>not<.b>\?\s+This is no/.test(answer.textContent)")
        seen = second.eval(TOKENS)
        second.wait_for(f"{TOKENS} > {seen}")
        press(second, "Stop")
        for each in page, second:
            each.wait_for("answer.getAttribute('aria-busy') === 'false'")
            assert each.eval("question.textContent") == "Why <b>not</b>?"
        assert second.eval("answer.textContent") == page.eval("answer.textContent")
    with opened(browser, f"{url}#unknown") as other:
        other.wait_for("question.textContent === 'This answer is not kept any more.'")
    check_width(page)


# --- dashboard -----------------------------------------------------------------------------

DRAWN = "chart.getContext('2d').getImageData(0, 0, chart.width, chart.height).data.some(Boolean)"


@pytest.mark.skipif(sys.platform != "linux", reason="the example reads /proc")
def test_dashboard_draws_what_was_before_a_page_was_opened(
    browser: Browser, page: Page, run: Run
) -> None:
    url = run("dashboard")
    page.open(url)
    page.wait_for("Number(seconds.textContent) >= 3")
    assert page.eval(DRAWN)
    with opened(browser, url) as late:
        late.wait_for("Number(seconds.textContent) * 1000 > performance.now() + 1000")
        assert late.eval(DRAWN)
        assert re.fullmatch(r"\d+ %", late.eval("processor.textContent"))
        assert re.fullmatch(r"\d+ %", late.eval("memory.textContent"))
    check_width(page)


# --- cursors -------------------------------------------------------------------------------

CURSORS = "[...board.querySelectorAll('.cursor')].map((each) => each.style.translate)"


def move(page: Page, x: float, y: float) -> None:
    """Move the mouse to a place on the board, in parts of its size."""
    box = page.eval("board.getBoundingClientRect().toJSON()")
    to = [box["left"] + x * box["width"], box["top"] + y * box["height"]]
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=to[0], y=to[1])


def test_cursors_of_others_move_and_a_new_visitor_sees_where_they_are(
    browser: Browser, page: Page, run: Run
) -> None:
    url = run("cursors")
    page.open(url)
    page.call("Page.bringToFront")  # hidden pages draw no pictures
    move(page, 0.25, 0.5)
    with opened(browser, url) as other:
        other.wait_for("count.textContent === '1'")
        other.wait_for(f"{CURSORS}.join() === '25cqw 50cqh'")
        other.call("Page.bringToFront")
        other.eval("board.focus()")
        other.key("ArrowRight")
        page.wait_for(f"{CURSORS}.join() === '52cqw 50cqh'")
        assert other.eval("[...board.children].map((each) => each.textContent).pop()") == "you"
    page.wait_for("count.textContent === '0' && board.children.length === 0")
    check_width(page)
