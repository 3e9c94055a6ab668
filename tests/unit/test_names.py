"""Channel names and process ids: which are allowed, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ws_hub.errors import InvalidName
from ws_hub.protocol.names import (
    PROCESS_PREFIX,
    check_channel,
    check_process_id,
    is_channel_name,
    is_process_id,
    process_channel,
)

ALLOWED = "ABCXYZabcxyz0189_-."


@pytest.mark.parametrize("name", ["a", "A-Z_0.9", "x" * 128, "-", ".", ".."])
def test_process_ids_that_are_allowed(name: str) -> None:
    assert is_process_id(name)
    assert is_channel_name(name)
    check_process_id(name)
    assert process_channel(name) == PROCESS_PREFIX + name
    assert is_channel_name(process_channel(name))


BAD_NAMES = [
    "",
    " ",
    "a b",
    "a/b",
    "a\n",
    "\na",
    "a\x00",
    "a\r\nb",
    "é",
    "ａ",
    "а",
    "*",
    "a?",
    "a[b]",
]


@pytest.mark.parametrize("name", [*BAD_NAMES, "a:b", "x" * 129])
def test_process_ids_that_are_refused(name: str) -> None:
    assert not is_process_id(name)
    with pytest.raises(InvalidName, match="process id"):
        check_process_id(name)
    with pytest.raises(InvalidName):
        process_channel(name)


@pytest.mark.parametrize(
    "name", ["a:b", ":", "::", "x" * 256, "process", "processes:a:b", "Process:a:b"]
)
def test_channel_names_that_are_allowed(name: str) -> None:
    assert is_channel_name(name)
    check_channel(name)


@pytest.mark.parametrize(
    "name", [*BAD_NAMES, "x" * 257, "process:", "process:a:b", "process:" + "x" * 129]
)
def test_fault_21_channel_names_that_are_refused(name: str) -> None:
    assert not is_channel_name(name)
    with pytest.raises(InvalidName, match="channel name"):
        check_channel(name)


@pytest.mark.parametrize("name", ["*", "chat:*", "process:*"])
def test_a_pattern_for_a_name_is_told_that_it_is_one(name: str) -> None:
    with pytest.raises(InvalidName, match=r"a \* makes it a pattern.*give the whole name"):
        check_channel(name)


@pytest.mark.parametrize("name", [None, 5, b"a", ["a"]])
def test_a_name_that_is_no_string_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match="channel must be the name of a channel"):
        check_channel(name)


def test_another_rule_replaces_the_protocols() -> None:
    check_channel("über/alles", lambda name: "/" in name)
    with pytest.raises(InvalidName):
        check_channel("plain", lambda name: "/" in name)


def test_fault_54_a_refused_name_is_quoted_and_cut() -> None:
    with pytest.raises(InvalidName) as caught:
        check_channel("\r\n\x1b[31m" + "x" * 1_000_000)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(st.text(alphabet=ALLOWED, min_size=1, max_size=128))
def test_every_id_of_allowed_characters_makes_a_channel(name: str) -> None:
    assert is_channel_name(process_channel(name))


@given(st.text(max_size=300))
def test_the_rules_for_names_agree_with_their_alphabet(name: str) -> None:
    letters = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.")

    assert is_process_id(name) == (1 <= len(name) <= 128 and set(name) <= letters)
    if not name.startswith(PROCESS_PREFIX):
        assert is_channel_name(name) == (1 <= len(name) <= 256 and set(name) <= letters | {":"})


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a" * 129])
def test_a_bad_process_id_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        process_channel(name)
