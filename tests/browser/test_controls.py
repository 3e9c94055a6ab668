"""The page's input line and its buttons: there only where permitted, and what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.browser import rows
from tests.browser.chromium import Page
from tests.browser.conftest import Site
from tests.programs import python
from tests.support import TIMEOUT, wait_until
from ws_hub import Client
from ws_hub.process import Process

pytestmark = pytest.mark.browser

LINES = rows.lines("document.getElementById('log')")
ECHO = "for line in open(0): print('got', line, end='', flush=True)"


def element(id: str) -> str:
    return f"document.getElementById('{id}')"


def shown(id: str) -> str:
    return f"{element(id)}.checkVisibility()"


SHOWN = (
    "[...document.querySelectorAll('.control *')].filter(e => e.checkVisibility()).map(e => e.id)"
)


@pytest.fixture
def allowed() -> set[str]:
    return {"input", "stop", "kill"}


@pytest.fixture
def site(make_site: Callable[..., Site], allowed: set[str]) -> Site:
    def may(client: Client, process_id: str, action: str) -> bool:
        return action in allowed

    return make_site("process:build", input_authoriser=may)


def run(site: Site, **options: Any) -> Process:
    return site.hub.run_process(python(ECHO), "build", **{"stdin": True, **options})  # type: ignore[no-any-return]


def write(page: Page, text: str) -> None:
    page.eval(f"{element('input')}.value = {text!r}")
    page.eval(f"{element('send')}.click()")


def test_without_an_authoriser_there_is_nothing(page: Page, make_site: Callable[..., Site]) -> None:
    site = make_site("process:build")
    with run(site):
        page.open(site.url)
        page.wait_for("document.title === '● build · running'")
        assert page.eval(SHOWN) == []


def test_a_line_is_sent_and_the_hold_is_taken_and_released(page: Page, site: Site) -> None:
    page.open(site.url)
    page.wait_for("document.title === 'build · waiting'")
    assert page.eval(SHOWN) == []
    process = run(site)
    page.wait_for(shown("input"))
    assert page.eval(SHOWN) == ["input", "send", "end", "stop", "kill"]
    write(page, "hello")
    page.wait_for(f"{LINES}.includes('got hello')")
    page.wait_for(shown("release"))
    assert page.eval(f"{element('input')}.value") == ""
    page.eval(f"{element('release')}.click()")
    page.wait_for(f"!{shown('release')}")
    page.eval(f"{element('end')}.click()")
    assert process.wait(TIMEOUT) == 0
    page.wait_for(f"({SHOWN}).length === 0")


def test_another_page_sees_who_holds_the_input_and_waits(
    page: Page, second_page: Page, site: Site
) -> None:
    with run(site):
        page.open(site.url)
        second_page.open(site.url)
        page.wait_for(shown("input"))
        second_page.wait_for(shown("input"))
        write(page, "first")
        second_page.wait_for(f"{element('input')}.disabled")
        placeholder = second_page.eval(f"{element('input')}.placeholder")
        assert placeholder == "Another client holds the input"
        assert second_page.eval(f"!{element('stop')}.disabled")
        page.eval("location.reload()")  # which ends its connection
        second_page.wait_for(f"!{element('input')}.disabled")
        write(second_page, "second")
        second_page.wait_for(f"{LINES}.includes('got second')")


@pytest.mark.parametrize(("button", "reason"), [("stop", "stopped"), ("kill", "killed")])
def test_a_second_press_ends_the_program(page: Page, site: Site, button: str, reason: str) -> None:
    page.open(site.url)
    process = run(site)
    page.wait_for(shown(button))
    said = f"{element(button)}.textContent"
    assert page.eval(f"({element(button)}.click(), {said})").endswith(" now?")
    assert process.running
    # The second press, or both anew where a slow machine comes too late for it.
    page.eval(f"{said}.endsWith(' now?') || {element(button)}.click(); {element(button)}.click()")
    assert process.wait(TIMEOUT) < 0
    assert process.reason == reason
    page.wait_for(f"({SHOWN}).length === 0")


@pytest.mark.parametrize("allowed", [{"stop"}, {"kill"}, {"input"}])
def test_only_what_is_permitted_is_shown(page: Page, site: Site, allowed: set[str]) -> None:
    names = {"input": ["input", "send", "end"], "stop": ["stop"], "kill": ["kill"]}
    with run(site):
        page.open(site.url)
        page.wait_for(f"({SHOWN}).length > 0")
        assert page.eval(SHOWN) == names[next(iter(allowed))]


def test_a_program_without_input_has_no_line(page: Page, site: Site) -> None:
    with site.hub.run_process(["sleep", "60"], "build"):
        page.open(site.url)
        page.wait_for(shown("stop"))
        assert page.eval(SHOWN) == ["stop", "kill"]


def test_what_is_refused_later_is_said(page: Page, site: Site, allowed: set[str]) -> None:
    with run(site):
        page.open(site.url)
        page.wait_for(shown("input"))
        allowed.clear()
        write(page, "x")
        note = f"{element('note')}.textContent"
        page.wait_for(f"({note}).includes('Control: not allowed')")


def test_nothing_is_meant_for_the_program_that_was_watched_before(
    page: Page, make_site: Callable[..., Site]
) -> None:
    site = make_site("", input_authoriser=lambda client, process_id, action: True)
    with (
        site.hub.run_process(python(ECHO), "one", stdin=True),
        site.hub.run_process(python(ECHO), "two", stdin=True) as two,
    ):
        page.open(f"{site.url}?channel=process:one")
        page.wait_for(shown("kill"))
        write(page, "hello")
        page.wait_for(shown("release"))
        page.eval(f"{element('kill')}.click()")
        other = "document.querySelector('#channels-list a[title=\"process:two\"]')"
        page.wait_for(f"!!{other}")
        page.eval(f"{other}.click()")
        page.wait_for(f"{shown('kill')} && document.title.includes('two')")
        assert page.eval(f"{element('kill')}.textContent") == "Kill"
        said = f"{element('kill')}.textContent"
        assert page.eval(f"({element('kill')}.click(), {said})") == "Kill now?"
        assert two.running

        wait_until(lambda: holds(site, "one") == [True, False])


def holds(site: Site, program: str) -> list[bool]:
    """Return whether the input of a program was held and released, in order."""
    messages = site.hub.history(f"process:{program}", last=50).messages
    events = [each.data for each in messages if each.type == "event"]
    return [each["data"]["held"] for each in events if each["event"] == "process_hold"]


def test_a_hold_that_was_just_taken_is_given_back_for_another_program(
    page: Page, make_site: Callable[..., Site]
) -> None:
    """Before the page has asked who holds the input."""
    site = make_site("", input_authoriser=lambda client, process_id, action: True)
    site.hub.send_process_output("two", "x")
    with site.hub.run_process(python(ECHO), "one", stdin=True):
        page.open(f"{site.url}?channel=process:one")
        page.wait_for(shown("input"))
        other = "document.querySelector('#channels-list a[title=\"process:two\"]')"
        page.wait_for(f"!!{other}")
        page.eval(
            "const {send} = WebSocket.prototype; WebSocket.prototype.send = function (text) {"
            " if (!text.includes('process_control')) send.call(this, text); };"
        )
        write(page, "hello")
        page.wait_for(f"{LINES}.includes('got hello')")
        page.eval(f"{other}.click()")
        wait_until(lambda: holds(site, "one") == [True, False])
