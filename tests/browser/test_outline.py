"""Groups, errors and warnings, and links on the page: folded, listed and followed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser import rows
from tests.browser.chromium import Page
from tests.browser.conftest import Site
from ws_hub import Hub, serve
from ws_hub.server.viewer import page_app

pytestmark = pytest.mark.browser

LOG = "document.getElementById('log')"
LINES = rows.lines(LOG)
# The texts of the rows that are shown, without what stands beside them.
SHOWN = """[...document.querySelectorAll(".row")]
  .filter((row) => row.getBoundingClientRect().height)
  .map((row) => row.querySelector(".text").textContent)"""
HEADS = """[...document.querySelectorAll(".fold")].map((button) => [button.ariaLabel,
  button.ariaExpanded, button.parentElement.querySelector(".folded").textContent])"""
PROBLEMS = """[...document.querySelectorAll(".problems li")].map((item) =>
  [...item.children].map((each) => each.textContent))"""

EVIL = "<img src=x onerror=\"window.hacked='yes'\"><script>window.hacked='yes'</script>"


def show(page: Page, site: Site, *lines: str) -> None:
    """Send lines, end the process, open its page and wait for all of them."""
    for line in lines:
        site.hub.send_process_output("build", line)
    site.hub.send_process_status("build", "exited", 0)
    page.open(site.url)
    page.wait_for(f"{LINES}.length === {len(lines)} && document.body.dataset.status === 'ok'")
    page.wait_for(f"{SHOWN}.at(-1)?.startsWith('exited 0')")


def shown(page: Page) -> Any:
    return page.eval(SHOWN)[:-1]  # without the note of the end


GROUPS = ("a", "::group::One", "b", "c", "::endgroup::", "d", "::group::Two", "e", "::endgroup::")


def test_a_group_is_folded_and_a_button_shows_its_lines(page: Page, site: Site) -> None:
    show(page, site, *GROUPS)
    assert shown(page) == ["a", "::group::One", "d", "::group::Two"]
    assert page.eval(HEADS) == [
        ["One: 3 lines", "false", "3 lines"],
        ["Two: 2 lines", "false", "2 lines"],
    ]
    page.eval("document.querySelector('.fold').focus()")
    page.key("Enter")
    page.wait_for("document.querySelector('.fold').ariaExpanded === 'true'")
    assert shown(page) == [*GROUPS[:7]]
    assert page.eval("document.activeElement === document.querySelector('.fold')")
    assert page.eval(HEADS)[0] == ["One: 3 lines", "true", ""]
    page.key("Enter")
    page.wait_for("document.querySelector('.fold').ariaExpanded === 'false'")
    assert shown(page) == ["a", "::group::One", "d", "::group::Two"]


def test_what_is_copied_and_saved_has_the_lines_of_folded_groups(page: Page, site: Site) -> None:
    show(page, site, *GROUPS)
    text = page.eval(f"{LOG}.logView.text()")
    assert text == "".join(f"{line}\n" for line in GROUPS)
    page.eval(f"{LOG}.logView.selectAll()")
    selected = page.eval(f"{LOG}.logView.selectedText()")
    assert selected.startswith("\n".join(GROUPS))


def test_all_groups_are_folded_and_unfolded_and_the_page_remembers(page: Page, site: Site) -> None:
    lines = ("+++ A", "b", "--- C", "d", "+++ E")
    show(page, site, *lines)
    assert shown(page) == ["+++ A", "b", "--- C", "+++ E"]
    page.key("[")
    page.wait_for("document.getElementById('fold-all').ariaPressed === 'true'")
    page.wait_for(f"{SHOWN}.length === 4")
    assert shown(page) == ["+++ A", "--- C", "+++ E"]
    page.open(site.url)
    page.wait_for(f"{SHOWN}.length === 4")
    page.eval("document.getElementById('unfold-all').click()")
    page.wait_for(f"{SHOWN}.length === 6")
    assert shown(page) == list(lines)
    page.eval("document.getElementById('unfold-all').click()")  # again: as the program says
    page.wait_for(f"{SHOWN}.length === 5")
    assert page.eval("document.getElementById('unfold-all').ariaPressed") == "false"


def test_search_unfolds_what_hides_a_match(page: Page, site: Site) -> None:
    outer = "\x1b]7300;section_start:1:a[collapsed=true]\x1b\\Outer"
    show(
        page,
        site,
        outer,
        "::group::Inner",
        "needle",
        "::endgroup::",
        "x",
        "\x1b]7300;section_end:2:a\x07",
    )
    assert shown(page) == ["Outer"]
    page.eval("document.getElementById('query').focus()")
    page.type("needle")
    page.wait_for("document.getElementById('found').textContent.endsWith('/1')")
    page.key("Enter")
    page.wait_for("document.querySelector('.row.current')?.textContent.includes('needle')")
    assert shown(page) == ["Outer", "::group::Inner", "needle", "::endgroup::", "x", ""]


def test_sections_of_gitlab_and_redrawn_titles_of_a_real_program(page: Page, site: Site) -> None:
    program = (
        r"printf '\033[0Ksection_start:1764331200:a[collapsed=true]\r\033[0KPrepare\nx\n';"
        r"printf '\033[0Ksection_end:1764331272:a\r\033[0K\n';"
        r"printf '::group::Old\ny\n\033[2A\r::group::New\033[K\r\033[2B::endgroup::\n'"
    )
    with site.hub.run_process(["sh", "-c", program], "build", pty=True) as process:
        process.wait()
    page.open(site.url)
    page.wait_for(f"{SHOWN}.at(-1)?.startsWith('exited 0')")
    assert page.eval(HEADS) == [
        ["Prepare: 2 lines, 1 min 12 s", "false", "2 lines, 1 min 12 s"],
        ["New: 2 lines", "false", "2 lines"],
    ]


def test_a_group_that_goes_on_is_shown_until_it_ends(page: Page, site: Site) -> None:
    hub = site.hub
    hub.send_process_output("build", "::group::A")
    hub.send_process_output("build", "x")
    page.open(site.url)
    page.wait_for(f"{SHOWN}.length === 2")
    page.eval("document.querySelector('.fold').click()")
    page.wait_for(f"{SHOWN}.length === 1")
    hub.send_process_output("build", "y")  # into a folded group
    page.wait_for(f"{HEADS}[0]?.[2] === '2 lines'")
    assert page.eval(SHOWN) == ["::group::A"]
    page.eval("document.querySelector('.fold').click()")
    page.wait_for(f"{SHOWN}.length === 3")
    hub.send_process_output("build", "::endgroup::")
    hub.send_process_output("build", "z")
    page.wait_for(f"{SHOWN}.at(-1) === 'z'")
    assert page.eval(SHOWN) == ["::group::A", "x", "y", "::endgroup::", "z"]  # the reader's choice


def test_a_row_that_is_looked_at_again_says_once_that_it_is_of_stderr(
    page: Page, site: Site
) -> None:
    site.hub.send_process_output("build", "::group::A", stream="stderr")
    site.hub.send_process_output("build", "x", stream="stderr")
    page.open(site.url)
    page.wait_for(f"{SHOWN}.length === 2")
    site.hub.send_process_output("build", "::endgroup::", stream="stderr")
    page.wait_for(f"{HEADS}[0]?.[2] === '2 lines'")
    assert page.eval("document.querySelectorAll('.said').length") == 1


def test_a_group_with_an_error_stays_open(page: Page, site: Site) -> None:
    lines = ("::group::A", "a.c:1:2: error: x", "::endgroup::", "::group::B", "y", "::endgroup::")
    show(page, site, *lines)
    assert shown(page) == [*lines[:4]]


def test_errors_and_warnings_are_listed_and_lead_to_their_lines(page: Page, site: Site) -> None:
    show(
        page,
        site,
        *(f"line {number}" for number in range(300)),
        "a.c:12:3: warning: unused",
        "::group::A",
        "::error file=b.js,line=4,title=Lint::no",
        "::endgroup::",
        *(f"line {number}" for number in range(300)),
    )
    page.wait_for(
        "document.querySelector('.problems summary').textContent === '1 error 1 warning '"
    )
    page.eval("document.querySelector('.problems summary').focus()")
    page.key("Enter")
    page.wait_for(f"{PROBLEMS}.length === 2")
    assert page.eval(PROBLEMS) == [["warning unused", "a.c:12:3"], ["error Lint: no", "b.js:4"]]
    page.eval("document.getElementById('fold-all').click()")
    page.eval("document.querySelectorAll('.problems li button')[1].click()")
    page.wait_for("document.querySelector('.row.linked')?.dataset.n === '303'")
    page.wait_for("document.querySelector('.row.linked')?.classList[1] === 'told-error'")
    assert page.eval("document.querySelector('.fold').ariaExpanded") == "true"
    page.eval("document.activeElement.blur()")
    page.key("e")
    page.wait_for("document.querySelector('.row.linked')?.dataset.n === '301'")
    page.key("e", shift=True)
    page.wait_for("document.querySelector('.row.linked')?.dataset.n === '303'")


def test_many_errors_are_counted_and_the_first_are_listed(page: Page, site: Site) -> None:
    show(page, site, *("::error::x" for _ in range(1200)))
    page.wait_for("document.querySelector('.problems summary').textContent === '1,200 errors '")
    page.eval("document.querySelector('.problems').open = true")
    page.wait_for(f"{PROBLEMS}.length === 1000")
    assert (
        page.eval("document.querySelector('.problems p').textContent") == "200 more are not listed."
    )


def test_another_channel_has_its_own_groups_and_errors(
    page: Page, make_site: Callable[..., Site]
) -> None:
    site = make_site()
    for line in ("::group::A", "::error::x"):
        site.hub.send_process_output("one", line)
    site.hub.send_process_output("two", "plain")
    page.open(site.url + "?channel=process:one")
    page.wait_for("document.querySelector('.problems summary').textContent === '1 error '")
    page.wait_for("document.querySelector('[data-channel=\"process:two\"]') !== null")
    page.eval("document.querySelector('[data-channel=\"process:two\"]').click()")
    page.wait_for(f"{SHOWN}.join() === 'plain'")
    assert page.eval("document.querySelector('.problems').hidden")
    assert page.eval("document.getElementById('fold-all').hidden")


def test_lines_that_are_loaded_later_have_their_groups_and_errors_in_place(
    page: Page, site: Site
) -> None:
    lines = [f"line {number}" for number in range(6000)]
    lines[10] = "\x1b]7300;section_start:100:a\x1b\\Outer"
    lines[20] = "::group::Old"
    lines[30] = "::endgroup::"
    lines[2990] = "::error::first"
    lines[3000] = "::group::Between"
    lines[4500] = "::endgroup::"
    lines[5800] = "::error::second"
    lines[5990] = "\x1b]7300;section_end:160:a\x1b\\"
    site.hub.send_process_lines("build", lines)
    site.hub.send_process_status("build", "exited", 1)
    page.open(site.url)
    page.wait_for(f"{LINES}.length === 6000")
    outline = f"{LOG}.logView.outline"
    found = f"{outline}.groups.list.map(({{title, end, start}}) => [title, end - start])"
    wanted = [["Outer", 5980], ["Old", 10], ["Between", 1500]]
    page.wait_for(f"JSON.stringify({found}) === '{json.dumps(wanted, separators=(',', ':'))}'")
    assert page.eval(f"{outline}.notes.list.map(({{message}}) => message)") == ["first", "second"]
    page.key("G", shift=True)
    page.wait_for(f"{SHOWN}.at(-1)?.startsWith('exited 1')")
    page.key("[")
    page.wait_for(f"{SHOWN}.length === 21")
    assert page.eval(SHOWN)[9:12] == ["line 9", "Outer", "line 5991"]
    page.key("e")
    page.wait_for("document.querySelector('.row.linked')?.textContent === '::error::first'")
    page.eval("document.getElementById('fold-all').click()")
    page.wait_for(f"{SHOWN}.length === 21")
    assert page.eval(HEADS) == [
        ["Outer: 5,980 lines, 1 min 0 s", "false", "5,980 lines, 1 min 0 s"]
    ]


# While lines are looked through anew, some at a time, a few only: on a clock that runs fast.
IN_SLICES = f"""
    const view = {LOG}.logView, {{outline, store}} = view;
    const own = performance.now.bind(performance);
    let ahead = 0;
    performance.now = () => own() + (ahead += 10);
    const wait = async (is) => {{ while (!is()) await new Promise((go) => setTimeout(go)); }};
    const row = (text) => ({{runs: [{{text, style: null}}]}});
    const put = (texts) => texts.map((text) => view.append(row(text)));
    const lines = (count) => Array.from({{length: count}}, (_, n) => `line ${{n}}`);
    const lookAnew = () => {{ view.prepend([row("older")], 1); }};
    const lookedAt = (id) => store.position(outline._building?.last) > store.position(id);
"""


def test_a_title_that_goes_while_lines_are_looked_through_hides_nothing(
    page: Page, site: Site
) -> None:
    page.open(site.url)
    page.eval(
        f"""(async () => {{ {IN_SLICES}
          outline.setMode("folded");
          const ids = put(["::group::A", ...lines(5000)]);
          lookAnew();
          await wait(() => lookedAt(ids[1500]));
          store.maxLines = store.count - 100; // the title goes, and lines that have been looked at
          put(["the last that the group has"]);
          outline.draw(); // as a frame does
          await wait(() => !outline._building);
          put(["new"]);
        }})()"""
    )
    page.wait_for(f"{SHOWN}.at(-1) === 'new'")
    assert page.eval(f"{LOG}.logView.outline.groups.list") == []


def test_a_row_that_comes_between_others_while_they_are_looked_through_is_looked_at(
    page: Page, site: Site
) -> None:
    page.open(site.url)
    found = page.eval(
        f"""(async () => {{ {IN_SLICES}
          const ids = put([...lines(700), "::group::A", "::error::x", ...lines(900)]);
          lookAnew();
          await wait(() => lookedAt(ids[850]));
          view.insert(row("::error::between"), ids[650]); // into a chunk that is full
          await wait(() => !outline._building);
          return [outline.groups.list, outline.notes.list].map((list) => list.length);
        }})()"""
    )
    assert found == [1, 2]


# --- links ---------------------------------------------------------------------------------

ANCHORS = """[...document.querySelectorAll(".text a, .problems a")].map((link) =>
  [link.textContent, link.href, link.title, link.rel, link.target])"""


def test_links_lead_out_of_the_page_and_say_where(page: Page, site: Site) -> None:
    show(
        page,
        site,
        "\x1b]8;id=1;https://x.example/a\x1b\\the \x1b[31mreport\x1b[0m\x1b]8;;\x1b\\ https://y.example/b.",
        "\x1b]8;;https://evil.example/\x1b\\https://bank.example/\x1b]8;;\x07 mailto:a@b.example",
    )
    out = ["noopener noreferrer nofollow", "_blank"]
    report = ["https://x.example/a", "x.example · https://x.example/a", *out]
    assert page.eval(ANCHORS) == [
        ["the ", *report],
        ["report", *report],
        ["https://y.example/b", "https://y.example/b", "y.example · https://y.example/b", *out],
        [
            "https://bank.example/",
            "https://bank.example/",
            "bank.example · https://bank.example/",
            *out,
        ],
        ["mailto:a@b.example", "mailto:a@b.example", "Write to a@b.example", *out],
    ]
    assert shown(page)[0] == "the report https://y.example/b."


def test_a_search_marks_words_within_links_and_commands(page: Page, site: Site) -> None:
    show(page, site, "::error::see https://x.example/word for more")
    page.eval("document.getElementById('query').focus()")
    page.type("see https://x.example/word for")
    page.wait_for("CSS.highlights.get('found')?.size === 1")
    marked = "[...CSS.highlights.get('found')][0]"
    assert page.eval(f"{marked}.toString()") == "see https://x.example/word for"


def test_places_in_files_are_links_where_the_application_says_where_to(page: Page) -> None:
    with Hub() as hub:
        app = page_app(
            hub,
            channel="process:build",
            source_url="https://code.example/{file}#L{line}",
            source_root='/home/"ci"',
        )
        with serve(hub, app=app) as server:
            lines = (
                "::error file=src/a b.c,line=3::x",
                'at /home/"ci"/lib/c.py:12',
                "/etc/d.conf:1",
            )
            for line in (*lines, "x/../../e.c:1 src/f.rs:2:3: warning: w"):
                hub.send_process_output("build", line)
            page.open(server.url.replace("ws://", "http://").removesuffix("ws"))
            page.wait_for(f"{SHOWN}.length === 4")
            page.eval("document.querySelector('.problems').open = true")
            page.wait_for(f"{PROBLEMS}.length === 1")
            found = [[text, href] for text, href, *_ in page.eval(ANCHORS)]
    base = "https://code.example"
    assert found == [
        ["src/a b.c:3", f"{base}/src/a%20b.c#L3"],
        ["src/f.rs:2:3", f"{base}/src/f.rs#L2"],
    ]


# --- what hostile output cannot do ---------------------------------------------------------


def test_hostile_titles_names_and_addresses_are_text(page: Page) -> None:
    with Hub() as hub:
        app = page_app(
            hub, channel="process:build", source_url="https://code.example/{file}#L{line}"
        )
        with serve(hub, app=app) as server:
            hostile = (
                f"::group::{EVIL}",
                f"::error file={EVIL},line=1,title={EVIL}::{EVIL}",
                "::error file=javascript:alert(1),line=1::a",
                "::warning file=//evil.example/x,line=1::b",
                "javascript:alert(1).c:1:1: error: c",
                f"\x1b]8;;javascript:window.hacked='yes'\x07{EVIL}\x1b]8;;\x07",
                "\x1b]8;;data:text/html,<script>alert(1)</script>\x1b\\d\x1b]8;;\x1b\\",
                "\x1b]8;;https://good.example@evil.example/\x1b\\e\x1b]8;;\x1b\\",
                f"\x1b]7300;section_start:1:a\x1b\\{EVIL}",
                f"\x1b]7300;section_start:1:{EVIL}\x1b\\f",
                f"--- {EVIL}",
                "https://x.example/\"onmouseover='window.hacked=1'",
                "::endgroup::",
            )
            for line in hostile:
                hub.send_process_output("build", line)
            page.open(server.url.replace("ws://", "http://").removesuffix("ws"))
            page.wait_for(f"{LINES}.length === {len(hostile)}")
            page.eval("document.querySelector('.problems').open = true")
            page.wait_for(f"{PROBLEMS}.length === 3")
            page.eval(
                "document.querySelectorAll('.problems li button').forEach((each) => each.click())"
            )
            page.eval("document.getElementById('unfold-all').click()")
            page.wait_for(f"{SHOWN}.length === {len(hostile)}")
            assert (
                page.eval("document.querySelectorAll('img, .log script, .problems script').length")
                == 0
            )
            assert page.eval("window.hacked ?? null") is None
            hrefs = [href for _, href, *_ in page.eval(ANCHORS)]
    assert "https://x.example/" in hrefs
    assert all(each.startswith(("https://x.example/", "https://code.example/")) for each in hrefs)
