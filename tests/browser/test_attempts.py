"""What a program uses while it runs, and the last lines of the attempt before, on the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser import rows
from tests.browser.chromium import Page
from tests.browser.conftest import Site
from tests.programs import python
from tests.support import TIMEOUT

pytestmark = pytest.mark.browser

LINES = rows.lines("document.getElementById('log')")
OLD = rows.lines("document.getElementById('attempt-log')")
TEXT = "document.getElementById('%s').textContent"
Make = Callable[..., Site]

BUSY = """
    import sys
    for number in range(1000): print("line", number)
    print("printed", flush=True)
    while not sys.stdin.readline():
        pass
"""
FAILS = """
    import sys
    for number in range(1, 301): print("first", number, file=sys.stderr)
    print("\\x1b[31mthe reason\\x1b[0m", file=sys.stderr)
    sys.exit(3)
"""


def test_what_a_program_uses_is_shown_while_it_runs(page: Page, make_site: Make) -> None:
    site = make_site("process:build", usage_interval=0.1)
    code = "import time\nprint('on', flush=True)\nheld = b'x' * 30_000_000\n"
    process = site.hub.run_process(python(code + "while True: sum(range(1000))"), "build")
    try:
        page.open(site.url)
        page.wait_for(f"/^\\d+\\.\\d s CPU · [3-9]\\d MB$/.test({TEXT % 'usage'})")
        assert page.eval(TEXT % "status") == "running"
        page.wait_for(f"{LINES}.join() === 'on'")  # another thread publishes it
        assert page.eval("document.getElementById('before').hidden")
        shown = page.eval(TEXT % "usage")
        page.wait_for(f"{TEXT % 'usage'} !== {shown!r}")
    finally:
        process.kill()
        process.wait(TIMEOUT)
    page.wait_for(f"{TEXT % 'usage'}.endsWith(' at most')")
    assert page.eval(rows.notes("document.getElementById('log')"))[0].startswith("killed by")
    assert page.eval(f"{LINES}.length") == 1


def test_a_sample_that_comes_before_the_start_is_loaded_begins_no_run(
    page: Page, make_site: Make
) -> None:
    site = make_site("process:build", usage_interval=0.1, history=5000)
    process = site.hub.run_process(python(BUSY), "build", stdin=True)
    try:
        page.open(site.url)
        page.wait_for(f"{LINES}.length === 1001 && {TEXT % 'usage'} !== ''")
        page.wait_for(f"{TEXT % 'elapsed'} !== ''")  # the start is in the oldest messages
        assert page.eval(rows.notes("document.getElementById('log')")) == []
        assert page.eval(f"{LINES}.at(-1)") == "printed"
        assert page.eval("document.getElementById('log').logView.total") == 1001
    finally:
        process.kill()
        process.wait(TIMEOUT)


def test_the_last_lines_of_the_attempt_before_are_shown_when_asked_for(
    page: Page, make_site: Make
) -> None:
    site = make_site("process:build")
    site.hub.run_process(python(FAILS), "build", attempt=1).wait(TIMEOUT)
    site.hub.run_process(python("print('again')"), "build", attempt=2).wait(TIMEOUT)
    page.open(site.url)
    page.wait_for(f"{TEXT % 'before'} === 'Attempt 1: exited 3'")
    page.eval("document.getElementById('before').click()")
    page.wait_for(f"{OLD}.at(-1) === 'the reason'")
    assert page.eval(OLD)[0] == "first 1"
    assert page.eval(TEXT % "attempt-note") == "Its last 301 lines"
    page.wait_for("!!document.querySelector('#attempt-log .row:last-child .fg-1')")
    numbers = "document.querySelector('#attempt-log .row:last-child').dataset.n"
    assert page.eval(numbers) == "301"
    page.key("Escape")
    page.wait_for("!document.getElementById('attempt').open")
    site.hub.send_process_status("build", "running")
    page.wait_for("document.getElementById('before').hidden")


def test_the_note_that_a_program_was_started_again_can_be_read(page: Page, make_site: Make) -> None:
    site = make_site("process:build")
    for _ in range(2):
        site.hub.run_process(python("print('on')"), "build").wait(TIMEOUT)
    page.open(site.url)
    notes = "[...document.querySelectorAll('.note .text > span')]"
    page.wait_for(f"{notes}.length === 3")
    shown = page.eval(
        f"{notes}.map((note) => [note.textContent.split(' after')[0],"
        " getComputedStyle(note).backgroundColor])"
    )
    plain = "rgba(0, 0, 0, 0)"
    assert shown == [["exited 0", plain], ["started again", plain], ["exited 0", plain]]


def test_long_numbers_of_its_lines_are_shown_whole(page: Page, make_site: Make) -> None:
    site = make_site("process:build")
    code = "for number in range(1, 100_001): print('line')"
    site.hub.run_process(python(code), "build", attempt=1).wait(TIMEOUT)
    site.hub.run_process(python("print('again')"), "build", attempt=2).wait(TIMEOUT)
    page.open(site.url)
    page.wait_for("!document.getElementById('before').hidden")
    page.eval("document.getElementById('before').click()")
    last = "document.querySelector('#attempt-log .row:last-child')"
    page.wait_for(f"{last}?.dataset.n === '100000'")
    height = f"{last}.querySelector('%s').getBoundingClientRect().height"
    page.wait_for(f"{height % '.gutter'} > 0")
    assert page.eval(f"{height % '.gutter'} < 1.5 * {height % '.text'}")
