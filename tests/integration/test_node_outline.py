"""groups.js, annotations.js, links.js and what ansi.js makes of links, under Node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import node

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(node.NODE is None, reason="no Node on this machine"),
]

PROGRAM = """
import {AnsiParser, LineAssembler} from "./ansi.js";
import {Annotations, commandOf} from "./annotations.js";
import {Groups} from "./groups.js";
import {Source, deceives, findLinks, findPlaces, linkTitle, safeLink} from "./links.js";
const run = (input) => { %s };
console.log(JSON.stringify(run(%s)));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return node.copy_modules(tmp_path_factory.mktemp("node"))


def run(folder: Path, program: str, given: Any) -> Any:
    return node.run(folder, PROGRAM % (program, json.dumps(given)))


# --- groups --------------------------------------------------------------------------------

# Takes lines `text`, `[text, mark, ...]`, `{number, text}`, null for a gap, and "show".
GROUPS = """
const groups = new Groups();
const shown = [];
let newest = 0;
const show = () => shown.push(groups.list.map((group) =>
  [group.title, group.start, group.end, group.depth, groups.isFolded(group)]));
for (const each of input) {
  if (each === null) groups.end();
  else if (each === "show") show();
  else {
    const line = typeof each === "string" ? {text: each}
      : Array.isArray(each) ? {text: each[0], marks: each.slice(1)} : each;
    const number = line.number ?? ++newest;
    groups.take({number, id: number + 100, text: line.text, marks: line.marks});
  }
}
show();
return shown;
"""


def groups(folder: Path, *lines: Any) -> Any:
    """Return [title, first line, last line, depth, whether it is folded] of each group."""
    return run(folder, GROUPS, lines)[-1]


def test_groups_of_github_and_azure_end_by_a_marker_or_the_next_one(folder: Path) -> None:
    assert groups(
        folder,
        "::group::One 100%25",
        "a",
        "::endgroup::",
        "  ##[group]Two",
        "b",
        "2026-11-28T12:00:00.1234567Z ##[group]Three",
        "c",
        "##[endgroup]",
        "::endgroup::",
        "d",
        "::group::",
    ) == [
        ["One 100%", 1, 3, 0, True],
        ["Two", 4, 5, 0, True],
        ["Three", 6, 8, 0, True],
        ["Group", 11, None, 0, False],
    ]


def test_sections_of_azure_have_groups_within(folder: Path) -> None:
    assert groups(
        folder,
        "##[section]Starting: Build",
        "##[group]make",
        "a",
        "##[endgroup]",
        "##[section]Finishing: Build",
        "##[section]Test",
        "##[section]Deploy",
    ) == [
        ["Build", 1, 5, 0, False],
        ["make", 2, 4, 1, True],
        ["Test", 6, 6, 0, False],
        ["Deploy", 7, None, 0, False],
    ]


def test_sections_of_gitlab_nest_and_end_by_their_names(folder: Path) -> None:
    assert groups(
        folder,
        ["Outer", "section_start:100:a[hide_duration=true,collapsed=true]"],
        ["", "section_start:101:b"],
        "x",
        ["", "section_end:105:b"],
        ["C", "section_start:106:c"],
        "y",
        ["after", "section_end:110:a"],
        ["D", "section_end:111:unknown", "section_start:112:d"],
    ) == [
        ["Outer", 1, 6, 0, True],
        ["b", 2, 4, 1, False],
        ["C", 5, 6, 1, False],
        ["D", 8, None, 0, False],
    ]


def test_a_section_of_gitlab_says_how_long_it_took(folder: Path) -> None:
    program = """
    const groups = new Groups();
    input.forEach((mark, index) => groups.take({number: index + 1, text: "", marks: [mark]}));
    return groups.list.map((group) => group.took);
    """
    marks = ["section_start:100:a", "section_start:103:b", "section_end:107:a"]
    assert run(folder, program, marks) == [7000, None]


def test_groups_of_buildkite(folder: Path) -> None:
    assert groups(
        folder,
        "--- :hammer: Build",
        "a",
        "~~~ Cache",
        "b",
        "+++ Test",
        "c",
        "--- Deploy",
        "d",
        "^^^ +++",
        "--- Done",
        "e",
    ) == [
        [":hammer: Build", 1, 2, 0, True],
        ["Cache", 3, 4, 0, True],
        ["Test", 5, 6, 0, False],
        ["Deploy", 7, 9, 0, False],
        ["Done", 10, None, 0, False],
    ]


def test_diffs_and_reports_are_no_groups(folder: Path) -> None:
    assert groups(
        folder,
        "--- a/x.c",
        "+++ b/x.c",
        "--- Kept",
        "a",
        "--- Expected",
        "+++ Actual",
        "--- /dev/null",
        "--- x.c\t2026-11-28",
        "--- FAIL: TestA (0.00s)",
        "--- Logging error ---",
        "---",
        "---- x",
        "--------------",
        "+++",
        "text ::group::no",
        "#[group]no",
        "::groups::no",
    ) == [["Kept", 3, None, 0, False]]


def test_a_gap_or_the_end_ends_all_groups_and_folds_none(folder: Path) -> None:
    outer = ["Outer", "section_start:1:a[collapsed=true]"]
    assert groups(
        folder, outer, "::group::Inner", "x", None, "y", "::endgroup::", ["", "section_end:2:a"]
    ) == [["Outer", 1, 3, 0, False], ["Inner", 2, 3, 1, False]]


def test_a_line_that_changes_changes_its_groups_and_those_behind(folder: Path) -> None:
    first = {"number": 1, "text": "::group::New"}
    end = {"number": 3, "text": "no end"}
    shown = run(
        folder,
        GROUPS,
        [
            *("::group::Old", "a", "::endgroup::", "::group::Next", "b", "::endgroup::", "show"),
            *(first, "show", end, "show", {"number": 3, "text": "::endgroup::"}, "show"),
            {"number": 4, "text": "plain"},
        ],
    )
    after = ["Next", 4, 6, 0, True]
    assert shown == [
        [["Old", 1, 3, 0, True], after],
        [["New", 1, 3, 0, True], after],
        [["New", 1, 3, 0, True], after],
        [["New", 1, 3, 0, True], after],
        [["New", 1, 3, 0, True]],
    ]


def test_lines_that_change_leave_what_the_same_lines_leave_at_once(folder: Path) -> None:
    program = """
    let seed = 7;
    const random = (count) => (seed = (seed * 1103515245 + 12345) % 2147483648) % count;
    const texts = ["::group::a", "::endgroup::", "--- b", "+++ c", "^^^ +++", "##[section]d",
      "x", "y", "error: e", " --> f.rs:1:2", "Traceback (most recent call last):",
      '  File "g", line 3', "H.Error: i", "j.js", "  1:2  error  k  l", "::error::m"];
    const marks = [[], [], ["section_start:1:a"], ["section_end:2:a"],
      ["section_start:3:b[collapsed=true]"]];
    const made = () => ({text: texts[random(texts.length)], marks: marks[random(marks.length)]});
    const seen = (lines) => {
      const [groups, notes] = [new Groups(), new Annotations()];
      for (const line of lines) {
        groups.take(line);
        notes.take(line);
      }
      return JSON.stringify([groups.list, notes.list, notes.counts]);
    };
    const wrong = [];
    for (let round = 0; round < 400; round++) {
      const [final, events] = [new Map(), []];
      const count = 1 + random(40);
      for (let step = 0; step < 3 * count; step++) {
        const number = 1 + random(count);
        const line = {number, id: number, ...made()};
        final.set(number, line);
        events.push(line);
      }
      const ordered = [...final.values()].sort((one, other) => one.number - other.number);
      const [one, other] = [seen(events), seen(ordered)];
      if (one !== other) wrong.push([events, one, other]);
    }
    return wrong.slice(0, 1);
    """
    assert run(folder, program, None) == []


def test_what_is_folded_is_chosen_by_the_reader_or_by_the_program(folder: Path) -> None:
    program = """
    const groups = new Groups();
    const lines = ["::group::A", "x", "::endgroup::", "::group::B", "y", "z", "::endgroup::",
      "+++ C", "w"];
    lines.forEach((text, index) => groups.take({number: index + 1, id: index + 11, text}));
    const shown = [];
    const show = () => shown.push(groups.folds.map((group) => [group.first, group.last]));
    show();
    groups.fail(6);
    show();
    groups.fold(groups.of(11), false);
    groups.fold(groups.of(18));
    show();
    groups.setMode("folded");
    show();
    groups.setMode("open");
    show();
    groups.setMode("marked");
    groups.forget((id) => id > 11);
    groups.fail(2);
    shown.push([groups.of(11) ?? null, groups.list.length]);
    return shown;
    """
    assert run(folder, program, None) == [
        [[11, 13], [14, 17]],
        [[11, 13]],
        [[18, None]],
        [[11, 13], [14, 17], [18, None]],
        [],
        [None, 2],
    ]


def test_memory_for_groups_is_bounded(folder: Path) -> None:
    program = """
    const groups = new Groups();
    for (let number = 1; number <= 30000; number++) {
      groups.take({number, id: number, text: "", marks: [`section_start:1:a${number}`]});
    }
    const {list, _recent: recent} = groups;
    const depths = list.map((group) => group.depth);
    return [list.length, Math.max(...depths), recent._entries.length < 600];
    """
    assert run(folder, program, None) == [64, 63, True]
    start = 'text: "", marks: [`section_start:1:a${number}`]'
    program = program.replace(start, 'text: "::group::"')
    assert run(folder, program, None) == [10000, 0, True]


def test_only_a_group_that_is_listed_hides_lines(folder: Path) -> None:
    program = """
    const groups = new Groups();
    groups.setMode("folded");
    const take = (number) => groups.take({number, id: number, text: "::group::"});
    const shown = [groups.hiding !== null];
    take(1);
    shown.push(groups.hiding !== null);
    groups.forget((id) => id > 1);
    shown.push(groups.hiding !== null);
    for (let number = 2; number <= 10001; number++) take(number);
    shown.push(groups.hiding !== null);
    take(10002); // one too many
    shown.push(groups.hiding !== null);
    return shown;
    """
    assert run(folder, program, None) == [False, True, False, True, False]


# --- errors and warnings -------------------------------------------------------------------

ANNOTATIONS = """
const notes = new Annotations();
input.forEach((text, index) => notes.take({number: index + 1, id: index + 11, text}));
return notes.list.map(({level, line, message, file, fileLine, column}) =>
  [line, level, file, fileLine, column, message]);
"""


def annotations(folder: Path, *lines: str) -> Any:
    """Return [line of the log, level, file, its line, column, message] of each."""
    return run(folder, ANNOTATIONS, lines)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("::error::plain", ["error", "", 0, 0, "plain"]),
        ("  ::warning file=a b.js,line=3,col=5::x%0Ay%25", ["warning", "a b.js", 3, 5, "x\ny%"]),
        ("::notice file=C%3A\\a.js,line=x::n", ["notice", "C:\\a.js", 0, 0, "n"]),
        ("##[error]boom", ["error", "", 0, 0, "boom"]),
        ("2026-11-28T12:00:00.1234567Z ##[warning]w", ["warning", "", 0, 0, "w"]),
        (
            "##vso[task.logissue type=error;sourcepath=a.cs;linenumber=3;columnnumber=9]bad",
            ["error", "a.cs", 3, 9, "bad"],
        ),
        ("src/a.c:3:5: error: expected ';'", ["error", "src/a.c", 3, 5, "expected ';'"]),
        ("a.c:3: warning: unused [-Wunused]", ["warning", "a.c", 3, 0, "unused [-Wunused]"]),
        ("C:\\x\\a.c:1:2: fatal error: no", ["error", "C:\\x\\a.c", 1, 2, "no"]),
        ("a.ts(3,5): error TS2304: Cannot", ["error", "a.ts", 3, 5, "TS2304: Cannot"]),
        ("src/a.ts:3:5 - error TS2304: No", ["error", "src/a.ts", 3, 5, "TS2304: No"]),
        ("C:\\a b\\c.cpp(12): error C2143: x", ["error", "C:\\a b\\c.cpp", 12, 0, "C2143: x"]),
        ("./main.go:12:5: undefined: x", ["error", "./main.go", 12, 5, "undefined: x"]),
        ("t/a.py:12: AssertionError", ["error", "t/a.py", 12, 0, "AssertionError"]),
        ("a.py:3: UserWarning: old", ["warning", "a.py", 3, 0, "UserWarning: old"]),
        ("a.py:1:8: F401 [*] unused", ["warning", "a.py", 1, 8, "F401 [*] unused"]),
        ("/p/a.js:1:10: bad. [Error/no-x]", ["error", "/p/a.js", 1, 10, "bad."]),
        ("A.java:5: error: ';' expected", ["error", "A.java", 5, 0, "';' expected"]),
    ],
)
def test_a_line_that_tells_of_an_error(folder: Path, line: str, found: list[Any]) -> None:
    assert annotations(folder, "before", line) == [[2, *found]]


def test_lines_that_tell_of_no_error(folder: Path) -> None:
    lines = [
        "2026-01-02 12:30:45 - ERROR - logged",
        "12:30:45: error: logged",
        "http://localhost:80: error: x",
        "main.go:12: logged",
        "error: could not compile",
        "::debug::d",
        "::set-output name=a::b",
        "see ::error::x",
        "a.py:12: in test_x",
        "[12:30:45] GET /a.js:3 200",
        '  File "a.py", line 3',
        "ok",
    ]
    assert annotations(folder, *lines) == []


def test_errors_of_several_lines(folder: Path) -> None:
    assert annotations(
        folder,
        "error[E0308]: mismatched types",
        " --> src/main.rs:2:5",
        "  |",
        "Traceback (most recent call last):",
        '  File "/a/b.py", line 3, in <module>',
        "    f()",
        '  File "c.py", line 9, in f',
        "    raise ValueError('x')",
        "ValueError: x",
        "/p/file.js",
        "  1:10  error    'x' is never used  no-unused-vars",
        "  2:1   warning  Missing semi",
    ) == [
        [1, "error", "src/main.rs", 2, 5, "E0308: mismatched types"],
        [9, "error", "c.py", 9, 0, "ValueError: x"],
        [11, "error", "/p/file.js", 1, 10, "'x' is never used (no-unused-vars)"],
        [12, "warning", "/p/file.js", 2, 1, "Missing semi"],
    ]


def test_annotations_are_counted_beyond_those_that_are_listed(folder: Path) -> None:
    program = """
    const found = [];
    const notes = new Annotations({maxListed: 3, onFound: ({line}) => found.push(line)});
    const take = (number, text) => notes.take({number, id: number, text});
    for (let number = 1; number <= 5; number++) take(number, "::error::" + "x".repeat(9000));
    take(5, "nothing");
    take(6, "::warning::w");
    const {list, counts} = notes;
    return [list.map(({line}) => line), counts, found, list[0].message.length < 600];
    """
    counts = {"error": 4, "warning": 1, "notice": 0}
    assert run(folder, program, None) == [[1, 2, 3], counts, [1, 2, 3, 4, 5, 6], True]


def test_the_command_before_a_text_is_known_by_itself(folder: Path) -> None:
    program = "return input.map(commandOf);"
    lines = ["::error file=a::x", "##[warning]y", "::debug::z", "::group::w", "a.c:1:1: error: v"]
    assert run(folder, program, lines) == [
        {"level": "error", "prefix": 16},
        {"level": "warning", "prefix": 11},
        {"level": "debug", "prefix": 9},
        None,
        None,
    ]


# An expression that takes exponential time never ends here, and one that takes quadratic time on
# the first characters of a line, let alone on all 20,000, exceeds what a run may take.
def test_hostile_lines_take_the_time_of_their_length(folder: Path) -> None:
    program = """
    const parts = ["a", "a:", ":1", "::", "a.c:1:1", ": ", "error", "[", "(", "1,", "(1", "--> ",
      'File "', '"', "  ", "\\t", " [", "##[", "=", ",", "/", "\\\\", "A1", "a.py:1: ", "Error",
      ".", "-", "--- ", "http://", "http://a.b:1/"];
    let count = 0;
    for (const one of parts) {
      for (const other of parts) {
        for (const text of [one.repeat(9000) + other.repeat(9000), (one + other).repeat(5000)]) {
          const line = {number: ++count, id: count, text: text.slice(0, 20000)};
          const [groups, notes] = [new Groups(), new Annotations()];
          groups.take(line);
          notes.take(line);
          notes.take({number: ++count, id: count, text: " --> x" + line.text});
          commandOf(line.text);
          findLinks(line.text);
          findPlaces(line.text);
        }
      }
    }
    return count;
    """
    assert run(folder, program, None) == 2 * 2 * 30 * 30


# --- links ---------------------------------------------------------------------------------


def test_only_addresses_that_a_page_may_link_to_are_links(folder: Path) -> None:
    good = ["https://example.com/a?b#c", "http://x.y:80/", "mailto:a@b.c", "HTTPS://X.Y"]
    bad = [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        " javascript:alert(1)",
        "java\tscript:alert(1)",
        "data:text/html,<script>",
        "file:///etc/passwd",
        "https://github.com@evil.example/",
        "https://user:word@evil.example/",
        "vbscript:x",
        "blob:https://x/",
        "ftp://x/",
        "//x.y/z",
        "/x",
        "",
        "https://",
        "https://x/" + 3000 * "a",
    ]
    assert run(folder, "return input.map(safeLink);", good + bad) == [
        "https://example.com/a?b#c",
        "http://x.y/",
        "mailto:a@b.c",
        "https://x.y/",
        *[""] * len(bad),
    ]


def test_the_title_of_a_link_has_its_host_first(folder: Path) -> None:
    program = "return input.map((each) => linkTitle(safeLink(each)));"
    given = ["https://раураl.com/x", "mailto:a@b.c?subject=x"]
    assert run(folder, program, given) == [
        "xn--l-7sba6dbr.com · https://xn--l-7sba6dbr.com/x",
        "Write to a@b.c",
    ]


def test_a_text_that_looks_like_another_address_deceives(folder: Path) -> None:
    program = "return input.map(([text, href]) => deceives(text, href));"
    evil = "https://evil.example/"
    assert run(
        folder,
        program,
        [["https://bank.example", evil], ["here", evil], ["see https://evil.example/a", evil]],
    ) == [True, False, False]


def test_addresses_in_a_text_end_before_the_sentence_does(folder: Path) -> None:
    text = (
        "see (https://x.y/a_(b)), http://c.d. mailto:e@f.g! https://u:p@h/ xhttp://no <http://i.j>"
    )
    found = run(folder, "return findLinks(input).map(({start, end}) => [start, end]);", text)
    assert [text[start:end] for start, end in found] == [
        "https://x.y/a_(b)",
        "http://c.d",
        "mailto:e@f.g",
        "http://i.j",
    ]


def test_places_in_files(folder: Path) -> None:
    text = r"at src/a.c:12:3, C:\x\b.py:4 (../c.js:5) http://d.e:80/ 1.2.3:4 f.c:1g h.rs:7:8: error"
    found = run(folder, "return findPlaces(input);", text)
    assert [
        (text[each["start"] : each["end"]], each["file"], each["line"], each["column"])
        for each in found
    ] == [
        ("src/a.c:12:3", "src/a.c", 12, 3),
        (r"C:\x\b.py:4", r"C:\x\b.py", 4, 0),
        ("../c.js:5", "../c.js", 5, 0),
        ("h.rs:7:8", "h.rs", 7, 8),
    ]


def test_a_source_makes_addresses_of_places_below_its_own(folder: Path) -> None:
    program = """
    const source = new Source("https://github.com/o/r/blob/main/{file}#L{line}", "/home/ci/r/");
    return input.map((file) => source.href(file, 7));
    """
    good = ["./src/a#b?.c", "/home/ci/r/x.c", "a\\b.c"]
    files = [*good, "/etc/passwd", "../../evil", "a/../../b", ""]
    base = "https://github.com/o/r/blob/main/"
    assert run(folder, program, files) == [
        f"{base}src/a%23b%3F.c#L7",
        f"{base}x.c#L7",
        f"{base}a/b.c#L7",
        *[""] * 4,
    ]


@pytest.mark.parametrize(
    "template",
    [
        "javascript:{file}",
        "https://{file}/",
        "https://x.{file}/y",
        "https://a:b@x/{file}",
        "https://x/{line}",
        "mailto:{file}",
        "{file}",
        "",
    ],
)
def test_a_template_that_is_no_address_is_refused(folder: Path, template: str) -> None:
    program = "try { new Source(input); } catch (error) { return error.name; }"
    assert run(folder, program, template) == "TypeError"


def test_links_of_a_program_are_styles_of_its_runs(folder: Path) -> None:
    program = """
    const parser = new AnsiParser();
    const runs = input.flatMap((text) => parser.parse(text));
    return runs.map(({text, style}) => [text, style?.link ?? null, style?.fg ?? null]);
    """
    link, end = "\x1b]8;id=1;https://x.y/a;b\x1b\\", "\x1b]8;;\x07"
    texts = [f"a{link}b\x1b[31mc\x1b[0md{end}e", link[:9], f"{link[9:]}f", f"g{end}h"]
    href = "https://x.y/a;b"
    assert run(folder, program, texts) == [
        ["a", None, None],
        ["b", href, None],
        ["c", href, 1],
        ["d", href, None],
        ["e", None, None],
        ["f", href, None],
        ["g", href, None],
        ["h", None, None],
    ]


def test_marks_of_sections_are_beside_a_line(folder: Path) -> None:
    program = """
    const assembler = new LineAssembler();
    const lines = input.flatMap((text) => assembler.feed(text));
    return lines.map(({runs, marks}) => [runs.map((run) => run.text).join(""), marks]);
    """
    start, end = "section_start:1:a[collapsed=true]", "section_end:2:a"
    mark = "\x1b]7300;{}\x1b\\"
    texts = [
        mark.format(start) + "Build",
        "make",
        mark.format(end) + mark.format(start) + "\r",
        mark.format(end) + "piece\x17",
        "rest",
        f"\x1b[0K{end}\r\x1b[0K\x1b[0K{start}\r\x1b[0KTitle",
    ]
    assert run(folder, program, texts) == [
        ["Build", [start]],
        ["make", []],
        ["", [end, start]],
        ["piece", [end]],
        ["piecerest", [end]],
        ["Title", [end, start]],
    ]
