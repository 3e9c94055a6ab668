"""Secrets in output, and what stands in their place."""

from __future__ import annotations

import base64
import json
import logging
import re
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interventions import pattern_bounds
from ws_hub.errors import ConfigError
from ws_hub.lines import Lines, join
from ws_hub.mask.literals import Literals
from ws_hub.mask.masks import MAX_CHARACTERS, MaskEnv, Masks
from ws_hub.mask.patterns import MAX_COUNTS, MAX_WIDTH, Pattern
from ws_hub.mask.stream import StreamMask

SECRET = "s3cr3t/Tok+en ?ä~*"


def masks(*secrets: object, env: dict[str, str] | None = None) -> Masks:
    made = Masks()
    made.add(secrets, env)
    return made


def whole(secrets: Masks, text: str) -> str:
    stream = StreamMask(secrets)
    return (stream.feed(text.encode()) + stream.finish()).decode()


def cut_anywhere(secrets: Masks, text: str) -> str:
    """What comes out, which must be the same wherever the text is cut, once or at each byte."""
    data, expected = text.encode(), whole(secrets, text)
    for at in range(len(data) + 1):
        stream = StreamMask(secrets)
        out = stream.feed(data[:at]) + stream.feed(data[at:]) + stream.finish()
        assert out.decode() == expected, at
    stream = StreamMask(secrets)
    single = b"".join(stream.feed(data[at : at + 1]) for at in range(len(data)))
    assert (single + stream.finish()).decode() == expected
    return expected


# --- the forms of a secret -----------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        "s3cr3t%2FTok%2Ben%20%3F%C3%A4~%2A",
        "s3cr3t%2fTok%2ben%20%3f%c3%a4~%2a",
        "s3cr3t/Tok%2Ben%20%3F%C3%A4~%2A",
        "s3cr3t%2FTok%2Ben%20%3F%C3%A4~*",
        "s3cr3t%2FTok%2Ben+%3F%C3%A4%7E*",
        "s3cr3t%2fTok%2ben+%3f%c3%a4%7e*",
        json.dumps(SECRET)[1:-1],
        "s3cr3t\\/Tok+en ?ä~*",
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(SECRET.encode()).decode().rstrip("="),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        "s3cr\x1b[1;31m3t/Tok\x1b[0m+en\x1b[K ?\x1b[mä~*",
    ],
)
def test_each_form_is_masked_wherever_it_is_cut(form: str) -> None:
    out = cut_anywhere(masks(SECRET), f"before|{form}|behind\n")
    assert re.sub("\x1b\\[[0-9;]*[mK]", "", out) == "before|***|behind\n"


@pytest.mark.parametrize("before", ["", "a", "bc", "user:"])
@pytest.mark.parametrize("after", ["", "ä", "ä!", "ä!!"])
def test_base64_is_masked_whatever_is_around_the_secret(before: str, after: str) -> None:
    encoded = base64.b64encode(f"{before}{SECRET}{after}".encode()).decode()
    out = whole(masks(SECRET), encoded)
    left, right = out.split("***")
    first, last = -(-len(before) * 8 // 6), (len(before) + len(SECRET.encode())) * 8 // 6
    assert (left, right) == (encoded[:first], encoded[last:] if after else "")


def test_each_line_of_a_secret_is_one() -> None:
    key = "-----BEGIN KEY-----\r\nMIIEvQIBADANBgkq\nab\n\nhkiG9w0BAQEFAASC\n-----END KEY-----\n"
    out = whole(masks(key), key + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC " + json.dumps(key))
    assert "MIIE" not in out
    assert "hkiG" not in out
    assert out.splitlines()[2:4] == ["ab", ""]


@pytest.mark.parametrize("width", [76, 64])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_base64_of_a_long_secret_may_be_broken_into_lines(width: int, end: str) -> None:
    key = "".join(f"{number:x}row of a key{number}\n" for number in range(20)).strip()
    encoded = base64.b64encode((key + end).encode()).decode()
    lines = [encoded[at : at + width] for at in range(0, len(encoded), width)]
    text = "\n".join(["before", *lines, "behind"])
    masked = ["before", *(["***"] * len(lines)), "behind"]
    assert cut_anywhere(masks(key), text).splitlines() == masked


def test_a_secret_may_be_bytes_that_are_no_text() -> None:
    stream = StreamMask(masks(b"\xff\xfe\xfd\xfc"))
    assert stream.feed(b"a\xff\xfe") + stream.feed(b"\xfd\xfcb") == b"a***b"


def test_other_bytes_are_as_they_were() -> None:
    data = bytes(range(256)) * 3
    stream = StreamMask(masks(SECRET))
    out = b"".join(stream.feed(data[at : at + 7]) for at in range(0, len(data), 7))
    assert out + stream.finish() == data


def test_the_target_of_a_link_is_masked() -> None:
    link = f"\x1b]8;;https://a/?token={SECRET}\x1b\\here\x1b]8;;\x1b\\\n"
    assert cut_anywhere(masks(SECRET), link) == link.replace(SECRET, "***")


@pytest.mark.parametrize(
    ("secrets", "text", "out"),
    [
        (("abcdef", "cdefgh"), "1abcdefgh2", "1***2"),
        (("abcdef", "abcdefgh"), "abcdefgh abcdefg abcde", "*** ***g abcde"),
        (("abcd",), "abcdabcdabc", "******abc"),
        (("abab",), "ababababx", "***x"),
        (("aaaa",), "aaaaaaa aaa", "*** aaa"),
        (("abcdefgh", "efgh"), "abcdefg efgh", "abcdefg ***"),
        (("abcdefgh", "defx"), "abcdefx", "abc***"),
        (("abcd", re.compile("c[de]{4,9}")), "abcdedez", "***z"),
        ((re.compile("c[de]{4,9}"), "edexx"), "1cdedexx2", "1***2"),
        ((re.compile("c[de]{4}"),), "cdededcdedecdedec", "***d******c"),
    ],
)
def test_secrets_that_overlap_are_one_and_those_that_touch_are_two(
    secrets: tuple[object, ...], text: str, out: str
) -> None:
    assert cut_anywhere(masks(*secrets), text) == out


def test_a_sequence_that_moves_the_cursor_is_no_text() -> None:
    secrets = masks("GVY7", re.compile("[A-Z][0-9]{4}"))
    for text in ("\x1b[3GVY7", "\x1b[3GV\x1b[1DY7", "\x1b[3G1234", "GV\x1b[2Y7"):
        assert cut_anywhere(secrets, text) == text


# --- what is held back ---------------------------------------------------------------------


def test_what_cannot_begin_a_secret_is_not_held_back() -> None:
    stream = StreamMask(masks("s3cr3t-token", re.compile("ghp_[a-z]{8}")))
    assert stream.feed(b"Password: ") == b"Password: "
    assert stream.feed(b"is s3c") == b"is "
    assert stream.feed(b"ond") == b"s3cond"
    assert stream.feed(b" ghp_ab") == b" "
    assert stream.feed(b"C") == b"ghp_abC"
    assert stream.feed(b"s3cr3t-toke") == b""
    assert stream.holds
    assert stream.finish() == b"s3cr3t-toke"


def test_a_newline_releases_what_was_held_back() -> None:
    stream = StreamMask(masks("s3cr3t-token"))
    assert stream.feed(b"s3cr") == b""
    assert stream.feed(b"\n") == b"s3cr\n"


def test_half_a_sequence_is_held_back_and_a_long_one_is_none() -> None:
    stream = StreamMask(masks("s3cr3t"))
    assert stream.feed(b"a\x1b[3") == b"a"
    assert stream.feed(b"1mb") == b"\x1b[31mb"
    assert stream.feed(b"\x1b]8;;" + b"x" * 5000) == b"\x1b]8;;" + b"x" * 5000


def test_without_secrets_nothing_is_looked_at() -> None:
    stream, data = StreamMask(masks()), b"s3cr3t\xc3"
    assert stream.feed(data) is data
    assert not stream.holds
    assert stream.finish() == b""


def test_secrets_may_come_and_go_at_any_time() -> None:
    secrets = Masks()
    stream = StreamMask(secrets)
    assert stream.feed(b"abcd ab") == b"abcd ab"
    undo, other = secrets.add(["abcd"]), secrets.add(["wxyz"])
    assert stream.feed(b"cd abcd ab") == b"cd *** "
    undo()
    undo()
    assert stream.feed(b"cd wxyz") == b"abcd ***"
    other()
    assert stream.feed(b"wxyz") == b"wxyz"


def test_the_secrets_of_a_program_are_those_of_its_hub_as_well() -> None:
    parent = Masks()
    child = Masks(parent)
    child.add(["abcd"])
    parent.add(["wxyz"])
    assert child.text("abcd wxyz") == "*** ***"
    assert parent.text("abcd wxyz") == "abcd ***"


# --- what is found -------------------------------------------------------------------------

few = st.text("ab", min_size=1, max_size=9)
long = st.text("ab", min_size=10, max_size=45)


@settings(max_examples=300)
@given(st.sets(few | long, min_size=1, max_size=8), st.text("abc", max_size=120))
def test_all_places_of_all_texts_are_found(texts: set[str], text: str) -> None:
    literals = Literals(texts)
    naive = {
        (at, at + len(each))
        for each in texts
        for at in range(len(text))
        if text.startswith(each, at)
    }
    assert set(literals.find(text)) == naive
    begun = next(
        at
        for at in range(len(text) + 1)
        if at == len(text)
        or any(len(each) > len(text) - at and each.startswith(text[at:]) for each in texts)
    )
    assert literals.begun(text) == begun


PATTERNS = ["a{4}", "[ab]{4,9}c", "a?b?a?b?[^a]{4}", "ababb{0,7}", r"\w{5}", ".a.a",
            "a{2}b{0,3}[ab]{2,4}c?", "[ab]{0,2}a?[bc]{1,3}c{3}"]  # fmt: skip


def matches(pattern: str, text: str) -> Iterator[tuple[int, int]]:
    """The first match, the longest one from there, and so on behind it."""
    at = 0
    while at < len(text):
        ends = range(len(text), at, -1)
        end = next((end for end in ends if re.fullmatch(pattern, text[at:end])), None)
        if end is not None:
            yield at, end
        at = at + 1 if end is None else end


@pytest.mark.parametrize("patience", [2048, -(10**9)], ids=["by trying", "backwards"])
@settings(max_examples=300)
@given(st.sampled_from(PATTERNS), st.text("abc\n", max_size=40), st.sampled_from([1, 5, 8192]))
def test_a_pattern_matches_what_the_regular_expression_does(
    patience: int, source: str, text: str, window: int
) -> None:
    with pattern_bounds(patience, window):
        found, _, begun = Pattern(re.compile(source)).find(text, 0, whole=True)
    expected = [span for line in re.finditer("[^\n]+", text)
                for span in ((line.start() + at, line.start() + end)
                             for at, end in matches(source, line[0]))]  # fmt: skip
    assert found == expected
    assert begun == len(text)


@pytest.mark.parametrize("patience", [2048, -(10**9)], ids=["by trying", "backwards"])
@settings(max_examples=200)
@given(
    st.sampled_from(PATTERNS),
    st.sampled_from(["ccab", "baabaabaacc", "abababababab"]),
    st.text("abc\n", max_size=30),
    st.integers(0, 30),
)
def test_a_pattern_finds_the_same_wherever_it_is_cut(
    patience: int, source: str, secret: str, text: str, cut: int
) -> None:
    secrets = masks(re.compile(source), secret)
    with pattern_bounds(patience):
        stream = StreamMask(secrets)
        out = stream.feed(text[:cut].encode()) + stream.feed(text[cut:].encode()) + stream.finish()
        assert out.decode() == whole(secrets, text)


def test_a_match_in_what_is_held_back_for_another_secret_is_masked() -> None:
    secrets = masks("zcdedezz99", re.compile("c[de]{4}"))
    for text, out in (("zcdedeX", "z***X"), ("zcdedezz99", "***"), ("zcdedezzcdede", "z***zz***")):
        assert cut_anywhere(secrets, text) == out


class Counted(Pattern):
    """Counts how many characters its automata read."""

    steps = 0

    def _run(self, text: str, start: int) -> tuple[int, int]:
        end, read = super()._run(text, start)
        self.steps += read - start
        return end, read

    def _begins(self, text: str, start: int, *, whole: bool) -> tuple[list[int], int]:
        found, end = super()._begins(text, start, whole=whole)
        self.steps += end - start + MAX_WIDTH
        return found, end


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("[A-Za-z0-9+/]{40,1000}=", "aB3/" * 20_000),
        ("[A-Za-z0-9+/]{40,1000}=", ("a" * 39 + "=") * 2_000),
        (r"\w{40,1000}=", "".join(map(chr, range(0x4E00, 0x9FA6))) * 4),
        ("[a-c]{4,500}[b-d]{4,500}!", "abcdcba" * 10_000),
        ("[ab]{4}[abc]{0,500}[bd]{0,400}d", "abcab" * 10_000),
        ("a?[^b]?" * 7 + "[^b]{5,15}=", "a" * 50_000),
        ("[bc]{0,56}[ab]{0,56}[cb]{28,56}a{0,2}[ac]{0,8}b{0,56}c{4,8}", ("a" + "b" * 40) * 1_000),
    ],
)
def test_a_wide_pattern_takes_a_few_steps_for_each_character(
    source: str, text: str, whole: bool
) -> None:
    pattern = Counted(re.compile(source))
    pattern.find(text, 0, whole=whole)
    assert 0 < pattern.steps < 4 * len(text)


def test_what_a_pattern_remembers_is_bounded() -> None:
    text = "".join(map(chr, range(0x4E00, 0x9FA6)))
    with pattern_bounds(remembered=100):
        pattern, found = Pattern(re.compile(r"\w{40,1000}=")), []
        tracemalloc.start()
        try:
            found = pattern.find(text + "=" + text, 0, whole=True)[0]
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found == [(len(text) - 1000, len(text) + 1)]
    assert kept < 500_000  # bytes; all steps are 20,000 of some hundred bytes


@pytest.mark.parametrize(
    "pattern",
    [
        re.compile("key=[0-9a-f]{8}", re.IGNORECASE),
        re.compile("(?i)key=[0-9a-f]{8}"),
        re.compile("(?m)(?i)key=[0-9A-F]{8}", re.DOTALL),
        re.compile(
            r"""
            key [=]      # which is there in any case
            [0-9a-f] {8} # (and nothing else)
            """,
            re.VERBOSE | re.IGNORECASE,
        ),
        re.compile("(?xi) k e y \\= # [\n [0-9a-f]{8}"),
    ],
)
def test_the_flags_of_a_pattern_hold(pattern: re.Pattern[str]) -> None:
    assert whole(masks(pattern), "KEY=ABCDEF01, key=abcdef0g") == "***, key=abcdef0g"


def test_a_pattern_may_be_of_ascii_only_and_have_blanks() -> None:
    text = "tök-abcdef tok-12345ä a b#c"
    assert whole(masks(re.compile(r"\w{3}-\w{6}")), text) == "*** *** a b#c"
    assert whole(masks(re.compile(r"\w{3}-\w{6}", re.ASCII)), text) == text
    assert whole(masks(re.compile(r"(?a)\w{3}-\w{5}")), text) == "tök-abcdef ***ä a b#c"
    assert whole(masks(re.compile("a b#c")), text) == "tök-abcdef tok-12345ä ***"
    assert whole(masks(re.compile(r"a\ b[#]c", re.VERBOSE)), text).endswith(" ***")


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret", ["pin", "", "   pin \n", "ab\ncd\nef", b"pin", "\ud800pinpin", 31337, None]
)
def test_a_bad_secret_is_refused_without_its_name(secret: object) -> None:
    with pytest.raises(ConfigError, match="secret 1 of mask must") as caught:
        masks("long enough", secret)
    assert "pin" not in str(caught.value)
    assert "31337" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_secret_has_a_bound() -> None:
    with pytest.raises(ConfigError, match="at most 65536 characters"):
        masks("x" * (MAX_CHARACTERS + 1))


@pytest.mark.parametrize("secrets", ["a secret", b"a secret", 7, re.compile("abcd"), MaskEnv("A")])
def test_one_secret_is_no_list(secrets: object) -> None:
    with pytest.raises(ConfigError, match="mask must be a list of secrets") as caught:
        Masks().add(secrets)  # type: ignore[arg-type]
    assert "a secret" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    ["(a|b)cde", "a+bcd", "abc.*", "ab|cdef", "^abcd", r"abc\b", "abc{4", r"(a)\1abcd", "a*?bcde",
     "abcd(?i:e)", "(?-i:abcd)", "(?:abcd)", "(?>abcd)", "(?=ab)abcd", "(?<!x)abcd", "abcd(?#e)",
     "(?P<a>abcd)(?P=a)", "(a)?b(?(1)cd|ef)gh", "a{4}+b", "ab?+cde", "a{4,8}?b", "a{,4}bcde",
     "abcd$", r"\Aabcd", r"abcd\Z", r"abcd\012", r"abcd\n", r"abcd\N{BULLET}", "(?x) a {4 } b",
     "(?x)abcd{2 ,3}"],
)  # fmt: skip
def test_a_pattern_is_a_sequence_with_counts(source: str) -> None:
    with pytest.raises(ConfigError, match="must be a sequence of characters and classes"):
        masks(re.compile(source))


def test_a_pattern_within_one_line_is_not_taken_for_more() -> None:
    for pattern in (re.compile("ab.{4}", re.DOTALL), re.compile("(?s)ab.{4}")):
        with pytest.raises(ConfigError, match="has the flag DOTALL, and a match is within one"):
            masks(pattern)
    assert whole(masks(re.compile(r"a[.]b\.cd", re.DOTALL)), "a.b.cd") == "***"


@pytest.mark.parametrize("item", [r"\x0a", "\n", "[\r\n]", r"[\x00-\x07\x1b]{2}", r"\u0085"])
def test_a_pattern_that_is_never_found_is_refused(item: str) -> None:
    with pytest.raises(ConfigError, match="is never found, as no line has"):
        masks(re.compile(f"token{item}"))
    assert whole(masks(re.compile(f"tokens?{item[:-3] if item.endswith('{2}') else item}?")),
                 "tokens €") == "*** €"  # fmt: skip
    assert whole(masks(re.compile("€-[\n€]{4}")), "€-€€€€") == "***"


def test_the_counts_of_a_pattern_are_bounded() -> None:
    masks(re.compile("[ab]{2}" * MAX_COUNTS))
    with pytest.raises(ConfigError, match=f"with at most {MAX_COUNTS} counts: .*, with 17"):
        masks(re.compile("[ab]{2}" * (MAX_COUNTS + 1)))


def test_a_pattern_of_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="a compiled pattern of text, not Pattern"):
        masks(re.compile(b"abcd"))


@pytest.mark.parametrize("source", ["abc", "a{0,9}b", f"ab{{{MAX_WIDTH}}}", "a{9000}"])
def test_the_length_of_a_pattern_is_bounded(source: str) -> None:
    with pytest.raises(
        ConfigError, match=f"must match 4 characters or more, and at most {MAX_WIDTH}"
    ):
        masks(re.compile(source))


def test_variables_are_named_and_matched(caplog: pytest.LogCaptureFixture) -> None:
    env = {"NPM_TOKEN": "npm-secret", "GH_TOKEN": "gh-secret", "A_TOKEN": "yes", "B_TOKEN": ""}
    with caplog.at_level(logging.WARNING, "ws_hub"):
        secrets = masks(MaskEnv("*_TOKEN", "NPM_TOKEN"), env={**env, "OTHER": "other-secret"})
    assert secrets.text("npm-secret gh-secret other-secret yes") == "*** *** other-secret yes"
    assert "'A_TOKEN'" in caplog.text
    assert "yes" not in caplog.text
    with pytest.raises(ConfigError, match="no variable 'NPM_TOKE'"):
        masks(MaskEnv("NPM_TOKE"), env=env)
    with pytest.raises(ConfigError, match="variable 'A_TOKEN' must have a line of 4 bytes"):
        masks(MaskEnv("A_TOKEN"), env=env)
    assert masks(MaskEnv("B_TOKEN"), env=env).finder is None


@pytest.mark.parametrize("names", [(), ("",), (7,)])
def test_names_of_variables_are_text(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="MaskEnv takes names of variables"):
        MaskEnv(*names)


def test_no_repr_has_a_secret() -> None:
    secrets = masks(SECRET)
    finder = secrets.finder
    assert finder is not None
    for each in (secrets, finder, StreamMask(secrets), *vars(secrets).values()):
        assert "s3cr3t" not in repr(each)
    assert repr(MaskEnv("A", "B_*")) == "MaskEnv('A', 'B_*')"


# --- rows that are assembled on the screen -------------------------------------------------


def texts(
    secrets: Masks, *chunks: str, columns: int | None = None, max_piece: int = 8192
) -> list[str]:
    stream = StreamMask(secrets)
    lines = Lines(max_piece, columns=columns, mask=stream)
    found = []
    for chunk in chunks:
        found += [*lines.feed(stream.feed(chunk.encode())), *lines.partial()]
    return found + lines.finish()


@pytest.mark.parametrize(
    "chunks",
    [
        ("abcxef\x1b[3D", "d\n"),
        ("\x1b[4Gdef\r", "abc\n"),
        ("abcxxx\nnext", "\x1b[A\x1b[4Gdef\x1b[B", "\n"),
        ("abx", "\bcdef\n"),
        ("abcXXdef", "\x1b[5D\x1b[2P\n"),
    ],
)
def test_a_secret_that_only_the_screen_has_is_masked(chunks: tuple[str, ...]) -> None:
    found = texts(masks("abcdef"), *chunks)
    assert "***" in "".join(found)
    assert "abcdef" not in "".join(found)


def test_a_secret_that_a_terminal_wraps_is_masked() -> None:
    assert (
        texts(masks("abcdef"), "1234567ab", "\x1b[10Gcdefgh\r\n", columns=10)[-1] == "1234567***gh"
    )


def test_a_state_has_no_beginning_of_a_secret_at_its_end() -> None:
    found = texts(masks("abcdef"), "x:\x1b[3Ga", "\x1b[4Gb", "\x1b[5Gc", "\x1b[6Gd", "\x1b[7Gx")
    assert found[-2:] == ["x:abcdx\r", "x:abcdx"]
    assert set(found[:-2]) == {"x:\r"}


def test_a_secret_between_the_pieces_of_a_line_is_masked() -> None:
    secrets = masks("abcdef")
    found = texts(secrets, "\x1b[1G12345678ab", "??ef90", "\x1b[6Dcd\n", max_piece=10)
    assert list(join(found)) == ["12345678***90"]
    assert found[1] == "12345678\x17"


def test_a_status_row_is_masked() -> None:
    found = texts(masks("abcdef"), "\x1b[1;23r\x1b[24;1Habx\bcdef", "\x1b[1;24r\n")
    assert "***\r" in found
    assert not [text for text in found if "abcdef" in text]


def test_a_copy_holds_back_the_same() -> None:
    stream = StreamMask(masks("abcdef"))
    lines = Lines(mask=stream)
    lines.feed(stream.feed(b"x abc"))
    copy = lines.copy()
    assert not lines.empty
    assert lines.mask is not None
    assert copy.mask is not None
    assert lines.feed(lines.mask.feed(b"def\n")) == ["x ***"]
    assert copy.feed(copy.mask.feed(b"x\n")) == ["x abcx"]


@pytest.mark.parametrize("cut_off", ["\x1b", "\x1b[", "\x1b[1;"])
def test_a_sequence_that_another_cuts_off_takes_no_letter_of_a_secret(cut_off: str) -> None:
    """A terminal drops it, and shows the whole secret."""
    secrets, text = masks("s3cret-token"), f"{cut_off}\x1b[0ms3cret-token"
    assert secrets.text(text) == f"{cut_off}\x1b[0m***"
    assert cut_anywhere(secrets, text + "\n") == f"{cut_off}\x1b[0m***\n"


def test_what_is_too_long_for_a_sequence_is_none_however_it_is_cut() -> None:
    secrets, text = masks("s3cret-token"), f"s3cret\x1b]8;;{'u' * 5000}\x07-token\n"
    stream = StreamMask(secrets)
    parts = [text[at : at + 1000].encode() for at in range(0, len(text), 1000)]
    out = b"".join(map(stream.feed, parts)) + stream.finish()
    assert out.decode() == whole(secrets, text)


@pytest.mark.parametrize("secret", ["s3cr", "s3cret-token", "s3cret-" + "t" * 60])
def test_a_secret_is_found_anywhere_in_a_long_text(secret: str) -> None:
    finder = Literals([secret])
    step = {4: 1, 12: 9}.get(len(secret), 16)
    for edge in (16_384 * step, 32_768 * step):
        for at in range(edge - len(secret) - 1, edge + 2):
            text = "x" * at + secret + "y" * 100
            assert finder.find(text) == [(at, at + len(secret))]
