"""Several JavaScript modules as one, so that a browser loads a page's script with one request.

Each module becomes a function that returns what it exports. Known are the forms in which the
modules of `static/` import and export:

    import {one, two} from "./other.js";      export class, export const, export function

The first module, which nothing imports, may also import from outside, and export what it likes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

__all__ = ["join_modules"]

_IMPORT = re.compile(r'^import \{([^{}]+)\} from "([^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:class|const|function\*?) (\w+))", re.MULTILINE)
_OTHER_IMPORT = re.compile(r"^import\b.*", re.MULTILINE)
_OTHER = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


def join_modules(first: str, read: Callable[[str], str], outside: Mapping[str, str]) -> str:
    """Return one module that does what the first one does with all that it imports.

    Args:
        first: the name of the first module, "viewer.js".
        read: returns the text of a module by its name.
        outside: the addresses of modules that stay on their own, by those that are imported.
    """
    joined: dict[str, str] = {}
    own = read(first)
    _join(own, read, joined, open_=(first,))
    _check(first, _IMPORT.sub("", own), _OTHER_IMPORT)
    texts = [f"// {name}\nconst {_variable(name)} = {text}" for name, text in joined.items()]

    def imported(match: re.Match[str]) -> str:
        names, address = match.groups()
        if address in outside:
            return f'import {{{names}}} from "{outside[address]}";\n'
        return _taken(names, address)

    return "\n".join([*texts, f"// {first}\n{_IMPORT.sub(imported, own)}"])


def _join(
    text: str, read: Callable[[str], str], joined: dict[str, str], open_: tuple[str, ...]
) -> None:
    """Add what a module imports to those that are joined, each behind what it imports itself."""
    for _, address in _IMPORT.findall(text):
        name = address.removeprefix("./")
        if not address.startswith("./") or name in joined:
            continue
        assert name not in open_, f"{open_[-1]} and {name} import each other"
        own = read(name)
        _join(own, read, joined, (*open_, name))
        joined[name] = _function(name, own)


def _function(name: str, text: str) -> str:
    exported = _EXPORT.findall(text)
    body = _EXPORT.sub("", _IMPORT.sub(lambda match: _taken(*match.groups()), text))
    _check(name, body, _OTHER)
    return f"(() => {{\n{body}\nreturn {{{', '.join(exported)}}};\n}})();"


def _check(name: str, text: str, unknown: re.Pattern[str]) -> None:
    other = unknown.search(text)
    assert other is None, f"{name}: {other} is of no form that can be joined"


def _taken(names: str, address: str) -> str:
    assert address.startswith("./") and " as " not in names, f"{address}: {names}"
    return f"const {{{names}}} = {_variable(address.removeprefix('./'))};\n"


def _variable(name: str) -> str:
    return f"${name.removesuffix('.js')}"
