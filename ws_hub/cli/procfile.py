r"""Reads a Procfile and files of environment variables, as foreman and honcho do.

A Procfile has one program a line, `name: command`, a file of variables `NAME=value`; in both
empty lines and those that begin with `#` mean nothing. Unlike foreman and honcho, what is
neither is an error with its line number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ConfigError, excerpt

__all__ = ["Entry", "parse_procfile", "parse_variables", "read_text"]

_PROGRAM = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")
_VARIABLE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_QUOTED = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""")
_REST = re.compile(r"\s*(?:#.*)?")  # what may follow a quoted value
_COMMENT = re.compile(r"(?:^|\s)#.*")
_ESCAPES = {"n": "\n", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A program of a Procfile.

    Args:
        name: its name, of letters, digits, `-` and `_`.
        command: its command, for a shell.
        place: its place in the file, from 0.
    """

    name: str
    command: str
    place: int


def read_text(path: str) -> str:
    """Return the text of a file; raises OSError, and ConfigError where it is not UTF-8."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise OSError(
            f"cannot read {excerpt(path)}: {error.strerror or error}; give the path of another file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be a text in UTF-8: {error.reason}") from error


def parse_procfile(text: str, path: str) -> list[Entry]:
    """Return the programs of a Procfile, in its order; `path` is for the errors.

    Raises ConfigError for a line that is no program, a name that is there twice, and a file
    without a program.
    """
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    for number, line in _meant(text):
        found = _PROGRAM.fullmatch(line)
        if found is None:
            raise ConfigError(
                f"{path}:{number}: {excerpt(line)} is no program: write `name: command`, with "
                "letters, digits, - and _ in the name"
            )
        name, command = found.groups()
        if name in lines:
            raise ConfigError(
                f"{path}:{number}: the name {name!r} must be given once: it has line "
                f"{lines[name]} as well"
            )
        lines[name] = number
        entries.append(Entry(name, command, len(entries)))
    if not entries:
        raise ConfigError(f"{path} has no program: write one a line, as `web: python app.py`")
    return entries


def parse_variables(text: str, path: str) -> dict[str, str]:
    r"""Return the variables of a file; `path` is for the errors, which show no value.

    A value in single quotes is taken as it is, in double quotes `\n` is a newline, `\t` a tab
    and `\x` an x; without quotes it ends before ` #`. `export` may stand before a name.

    Raises ConfigError for a line that is no variable.
    """
    variables: dict[str, str] = {}
    for number, line in _meant(text):
        found = _VARIABLE.fullmatch(line)
        value = None if found is None else _value(found[2])
        if found is None or value is None:
            raise ConfigError(
                f"{path}:{number}: no variable: write NAME=value, with a value in quotes closed"
            )
        variables[found[1]] = value
    return variables


def _meant(text: str) -> list[tuple[int, str]]:
    """Return the lines that mean something, with their numbers."""
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _value(text: str) -> str | None:
    if not text.startswith(("'", '"')):
        return _COMMENT.sub("", text).rstrip()
    found = _QUOTED.match(text)
    if found is None or _REST.fullmatch(text, found.end()) is None:
        return None
    if found[1] is not None:
        return found[1]
    return re.sub(r"\\(.)", lambda each: _ESCAPES.get(each[1], each[1]), found[2])
