"""Lines that are JSON objects, unfolded into their fields."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.browser import rows
from tests.browser.chromium import Page
from tests.browser.conftest import Site

pytestmark = pytest.mark.browser

LOG = "document.getElementById('log')"
VIEW = f"{LOG}.logView"
LINES = rows.lines(LOG)
FIELDS = (
    "[...document.querySelectorAll('.field')].map((each) => ["
    "each.style.getPropertyValue('--depth'),"
    " each.querySelector('.key, .item').textContent,"
    " each.querySelector('.value')?.textContent ?? null])"
)
BUTTONS = "document.querySelectorAll('.unfold').length"


def fields_of(page: Page, text: str, cut: int = 0) -> list[list[object]] | None:
    """Return depth, key, kind and value of each field; None for what is no JSON line."""
    found: list[list[object]] | None = page.eval(
        "import('/static/json_fields.js').then(({fieldsOf, jsonStart}) => {"
        f" const [text, start] = [{json.dumps(text)}, jsonStart({json.dumps(text)}, {cut})];"
        " return start < 0 ? null : [...fieldsOf(text, start)].map("
        "({depth, key, kind, value}) => [depth, key, kind, value]); })"
    )
    return found


def open_unfolded(page: Page, site: Site, fields: int) -> None:
    """Open a page with one JSON line, which has so many fields, and unfold it."""
    page.open(site.url)
    page.wait_for(f"{BUTTONS} === 1")
    page.eval("document.querySelector('.unfold').click()")
    page.wait_for(f"{FIELDS}.length === {fields}")


LONG = "a text that is longer than what is shown of an object in one line of the page"


def test_fields_are_told_as_they_are_written(page: Page, site: Site) -> None:
    page.open(site.url)
    text = (
        '{"b": 1, "2": 12345678901234567890, "1": 1.50e3, "b": true, "": null,'
        ' "t": "a\\nb\\u001b[0m",'
        f' "in": {{"x": "{LONG}", "list": [{{"y": "{LONG}"}}, [], {{}}, "}}]"]}}, "s": [1, "]"]}}'
    )
    expected = [
        [0, "b", "number", "1"],
        [0, "2", "number", "12345678901234567890"],
        [0, "1", "number", "1.50e3"],
        [0, "b", "word", "true"],
        [0, "", "word", "null"],
        [0, "t", "string", "a\nb\x1b[0m"],
        [0, "in", "", ""],
        [1, "x", "string", LONG],
        [1, "list", "", ""],
        [2, 0, "", ""],
        [3, "y", "string", LONG],
        [2, 1, "json", "[]"],
        [2, 2, "json", "{}"],
        [2, 3, "string", "}]"],
        [0, "s", "json", '[1, "]"]'],
    ]
    assert fields_of(page, text) == expected
    assert fields_of(page, f"12:00 INFO {text} ") == expected
    for other in "int main() { }", "{not json}", "{}", "plain", "[1]", '{"a":1} and more', "":
        assert fields_of(page, other) is None


def test_a_line_that_is_cut_off_or_nested_deeply_takes_no_time(page: Page, site: Site) -> None:
    page.open(site.url)
    assert fields_of(page, '{"a": {"b": "' + LONG, cut=9) == [
        [0, "a", "", ""],
        [1, "b", "string", LONG],
    ]
    for opens, closes in ("[", "]"), ('{"a":', "}"):
        deep = '{"a":' + opens * 10_000 + "1" + closes * 10_000 + "}"
        found = fields_of(page, deep)
        assert found is not None and len(found) < 60
        assert found[-1][2] == "json"
    many = '{"a":[' + '[1],"b",{"c":[[[2]]]},' * 40_000 + "1]}"
    assert len(fields_of(page, many) or []) == 120_002
    assert fields_of(page, '{"a": "' + "x\\n" * 300_000 + '"}') == [
        [0, "a", "string", "x\n" * 300_000]
    ]


def test_a_json_line_is_unfolded_and_folded_again(page: Page, site: Site) -> None:
    site.hub.send_process_lines("build", [f"line {number}" for number in range(1, 101)])
    record = {"level": "warn", "user": {"name": LONG, "url": "https://example.com/a"}, "n": 3}
    site.hub.send_process_lines("build", [json.dumps(record), "behind", '{"small":1}'])
    page.open(site.url)
    page.wait_for(f"{BUTTONS} === 2")
    height = page.eval(f"{VIEW}._heights.total()")
    page.eval("document.querySelector('.unfold').click()")
    page.wait_for(f"{FIELDS}.length === 5")
    assert page.eval(FIELDS) == [
        ["0", "level", "warn"],
        ["0", "user", None],
        ["1", "name", LONG],
        ["1", "url", "https://example.com/a"],
        ["0", "n", "3"],
    ]
    assert page.eval("document.querySelector('.field a.out').href") == "https://example.com/a"
    button = "document.querySelector('.unfold')"
    assert page.eval(f"[{button}.ariaLabel, {button}.ariaExpanded]") == [
        "Fields of line 101",
        "true",
    ]
    group = "document.querySelector('.fields')"
    assert page.eval(f"[{group}.role, {group}.ariaLabel]") == ["group", "Fields of line 101"]
    assert not page.eval(f"{VIEW}.following")  # what is read stays where it is
    # The rows behind stand below the fields, also after the line was out of view.
    below = (
        "[...document.querySelectorAll('.row')].map((row) => row.getBoundingClientRect())"
        ".every((box, at, all) => !at || Math.abs(box.top - all[at - 1].bottom) < 0.5)"
    )
    page.wait_for(below)
    higher = page.eval(f"{VIEW}._heights.total()")
    assert higher > height + 80
    page.eval(f"{VIEW}.toStart()")
    page.wait_for(f"{FIELDS}.length === 0")
    assert page.eval(f"{VIEW}._heights.total()") == higher
    page.eval(f"{VIEW}.follow(true)")
    page.wait_for(f"{FIELDS}.length === 5")
    page.eval(f"{button}.click()")
    page.wait_for(f"{FIELDS}.length === 0")
    page.wait_for(f"{VIEW}._heights.total() === {height}")


def test_keys_go_to_json_lines_and_open_them(page: Page, site: Site) -> None:
    texts = [f'{{"n":{n}}}' if n % 500 == 0 else f"line {n}" for n in range(1, 2001)]
    site.hub.send_process_lines("build", texts)
    page.open(site.url)
    page.wait_for(f"{LINES}.length === 2000 && !{VIEW}.store.provisional")
    focused = "document.activeElement.ariaLabel"
    page.eval(f"{VIEW}.toStart()")
    for number in 500, 1000:
        page.key("j")
        page.wait_for(f"{focused} === 'Fields of line {number}'")
    page.key("J", shift=True)
    page.wait_for(f"{focused} === 'Fields of line 500'")
    page.key("Enter")
    page.wait_for(f"{FIELDS}.length === 1")
    assert page.eval(focused) == "Fields of line 500"
    page.key("J", shift=True)
    said = "document.getElementById('say').textContent"
    page.wait_for(f"{said} === 'No further JSON line near here.'")
    # Lines that come in front give the others new numbers; the focus stays where it is.
    page.eval(f"{VIEW}.prepend([{{runs: [{{text: 'older', style: null}}]}}], 1)")
    page.wait_for(f"{focused} === 'Fields of line 501'")


def test_what_is_long_is_shown_in_part_and_copied_whole(page: Page, site: Site) -> None:
    value = "\x1b" + "x" * 4_999  # a control character is a sign on the page only
    many = {f"key {n}": n for n in range(450)}
    cut = '{"a": "' + "y" * 1_000_000 + '"}'
    site.hub.send_process_lines("build", [json.dumps({"v": value}), cut, json.dumps(many)])
    page.open(site.url)
    page.wait_for(f"{LINES}.length === 3")
    page.key("w")  # each in one row
    page.wait_for(f"{BUTTONS} === 3")
    page.eval("document.querySelectorAll('.unfold').forEach((each) => each.click())")
    more = "[...document.querySelectorAll('.fields > .load')]"
    page.wait_for(f"{FIELDS}.length === 1 + 200 + 1")
    assert page.eval(f"{FIELDS}[0][2]") == "␛" + "x" * 599
    rest = "[...document.querySelectorAll('.rest')].map((each) => each.textContent.trim())"
    assert page.eval(rest) == [
        "… 4,400 more characters",
        "… 19,393 more characters",
        "980,009 more characters of the line were left out",
    ]
    page.eval(
        "window.copied = null; document.execCommand = () => {"
        " copied = document.activeElement.value; return true; };"
        "navigator.clipboard.writeText = async () => { throw new Error('forbidden'); };"
        "document.querySelector('.field .load').focus()"
    )
    focused = "document.activeElement.textContent"
    page.key("Enter")
    page.wait_for("copied !== null")
    assert page.eval("copied") == value
    page.wait_for(f"{focused} === 'copied'")  # the focus is where it was
    page.eval(f"{more}[0].focus({{preventScroll: true}})")
    for count in 400, 450:
        page.key("Enter")
        page.wait_for(f"{FIELDS}.length === 1 + {count} + 1")
    assert page.eval("document.activeElement.ariaLabel") == "Fields of line 3"
    assert page.eval(f"{more}.length") == 0


def test_search_marks_what_it_finds_in_the_fields(page: Page, site: Site) -> None:
    site.hub.send_process_lines("build", ["plain", json.dumps({"some": {"name": LONG}})])
    open_unfolded(page, site, 2)
    page.eval(f"{VIEW}.search('one line')")
    page.wait_for(
        "[...(CSS.highlights.get('found') ?? [])].some("
        "(range) => range.startContainer.parentElement.closest('.fields'))"
    )


def test_what_is_selected_in_the_fields_is_what_is_copied(page: Page, site: Site) -> None:
    site.hub.send_process_lines("build", [json.dumps({"some": "value", "n": 1})])
    open_unfolded(page, site, 2)
    page.eval("getSelection().selectAllChildren(document.querySelector('.value'))")
    assert page.eval(f"{VIEW}.selectedText()") is None  # the browser's own copy
    assert page.eval("getSelection().toString()") == "value"


def test_a_key_from_right_to_left_stands_before_its_value(page: Page, site: Site) -> None:
    site.hub.send_process_lines("build", ['{"\u05de\u05e4\u05ea\u05d7": 5}'])
    open_unfolded(page, site, 1)
    place = "document.querySelector('.%s').getBoundingClientRect().%s"
    assert page.eval(f"{place % ('key', 'right')} < {place % ('value', 'left')}")


def test_events_are_unfolded_too(page: Page, make_site: Callable[..., Site]) -> None:
    site = make_site("news", rules=[{"pattern": "news", "history_messages": 10}])
    site.hub.send_event("saved", {"id": 7, "by": {"name": LONG}}, channel="news")
    open_unfolded(page, site, 3)
    assert page.eval(f"{FIELDS}[0]") == ["0", "id", "7"]


def test_the_element_unfolds_them_too(page: Page, site: Site) -> None:
    site.hub.send_process_lines("build", ["plain", json.dumps({"some": "value", "n": 1})])
    page.open(site.url)
    page.eval(
        "import('/static/ws_hub_log.js').then(() => {"
        " const log = document.createElement('ws-hub-log');"
        " log.setAttribute('channel', 'process:build');"
        " document.body.append(log); })"
    )
    root = "document.querySelector('ws-hub-log').shadowRoot"
    page.wait_for(f"{root}.querySelectorAll('.unfold').length === 1")
    page.eval(f"{root}.querySelector('.unfold').click()")
    page.wait_for(f"{root}.querySelectorAll('.field').length === 2")
    assert page.eval(f"{root}.querySelector('.field').textContent") == "some: value"
