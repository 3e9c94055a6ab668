"""Procfiles and files of variables: what foreman and honcho read, and errors with lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from ws_hub.cli.procfile import Entry, parse_procfile, parse_variables, read_text
from ws_hub.errors import ConfigError


def test_each_line_of_a_procfile_is_a_program() -> None:
    text = "# a comment\r\n\r\nweb:  python app.py --port $PORT\r\nre-load_2:echo a: b # c\n"
    assert parse_procfile(text, "Procfile") == [
        Entry("web", "python app.py --port $PORT", 0),
        Entry("re-load_2", "echo a: b # c", 1),  # a comment of the shell
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("web: a\nworker\n", "P:2: 'worker' is no program: write `name: command`"),
        ("web:\n", "P:1: 'web:' is no program"),
        ("\nwe b: a", "P:2: 'we b: a' is no program"),
        ("web: a\n\n\nweb: b", "P:4: the name 'web' must be given once: it has line 1 as well"),
        ("# nothing\n", "P has no program: write one a line"),
    ],
)
def test_what_is_no_program_is_an_error_with_its_line(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_procfile(text, "P")
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A=", ""),
        ("A = b c  ", "b c"),
        ("export A=b", "b"),
        ("A=b # c", "b"),
        ("A=b#c", "b#c"),
        ("A=# c", ""),
        ("A=x=y", "x=y"),
        (r"A='b\n #c' # d", r"b\n #c"),
        (r'A="b\n\t\"c\" \$ #"', 'b\n\t"c" $ #'),
        ('A=""', ""),
        ("A=it's", "it's"),
    ],
)
def test_a_variable_has_the_value_that_a_shell_would_give_it(line: str, value: str) -> None:
    assert parse_variables(f"# first\n{line}\n", ".env") == {"A": value}


def test_the_last_value_of_a_variable_counts() -> None:
    assert parse_variables("A=1\nB=2\nA=3\n", ".env") == {"A": "3", "B": "2"}


@pytest.mark.parametrize("line", ["secret", "2A=secret", "A='secret", 'A="secret', "A='s' ecret"])
def test_what_is_no_variable_is_an_error_that_shows_no_value(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_variables(f"\n{line}\n", ".env")
    assert str(caught.value).startswith(".env:2: no variable: write NAME=value")
    assert "secret" not in str(caught.value) and "ecret" not in str(caught.value)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot read .*none.*No such file"):
        read_text(str(tmp_path / "none"))
    (tmp_path / "bad").write_bytes(b"web: \xff\n")
    with pytest.raises(ConfigError, match="bad must be a text in UTF-8"):
        read_text(str(tmp_path / "bad"))


def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "P").write_bytes(b"\xef\xbb\xbfweb: a\n")
    assert parse_procfile(read_text(str(tmp_path / "P")), "P")[0].name == "web"
