"""Each exception of the library is in the catalogue, docs/errors.md, and says how to go on.

The texts are read from the source: a `raise` of a call, an exception that a helper returns, and
the `super().__init__` of an exception that makes its own text. A placeholder has the name of
what stands there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ws_hub"
PAGE = ROOT / "docs" / "errors.md"

# Modules whose exceptions reach no code of a user.
INSIDE = {
    "backplane/envelopes.py": "what is no notice is ignored, counted and logged",
    "backplane/exchange.py": "ends a connection of the backplane",
    "backplane/go_bridge.py": "what no Go hub sends is ignored, counted and logged",
    "backplane/interest.py": "such a peer is told everything",
    "backplane/notices.py": "ends a connection of the backplane; messages have no line feed",
    "backplane/peers.py": "ends a connection of the backplane",
    "backplane/redis_nodes.py": "logged, or the cause of a HistoryError or an OSError",
    "cli/terminal.py": "caught by the commands",
    "cli/common.py": "argparse writes the usage in its place",
    "connection/adoption.py": "answered with 501 or 503, and logged (docs/faq.md)",
    "connection/fast_send.py": "ends the connection",
    "connection/progress.py": "the caller does without",
    "connection/ring.py": "logged: a loop of sends does the same",
    "hub/control.py": "answered with an `error` (docs/protocol.md)",
    "hub/shared_control.py": "answered with an `error` (docs/protocol.md)",
    "hub/shared_presence.py": "logged: what another process tells is left out",
    "hub/subscriptions.py": "caught by Hub.subscribe, which raises LimitExceeded",
    "process/launch.py": "the cause of ProcessStartError",
    "protocol/compression.py": "a peer's fault: answered with a close code (docs/protocol.md)",
    "reconnect/connection.py": "a server's fault: a close code, and an attempt more",
    "reconnect/http.py": "a server's fault: on_error gets it, and an attempt more",
    "reconnect/stream.py": "ends an attempt",
    "server/request.py": "ends a request",
}
# Of exceptions that are made from what they are about, and of those of other libraries.
WITHOUT_TEXT = {"ProcessAlreadyRunning", "Exit"}
# A thing of the library or of its user: a placeholder, a call, a name with an underscore or
# capitals inside, or one of its nouns.
THING = re.compile(
    r"\{|\(|[a-z]_[a-z]|[a-z][A-Z]|\b(hub|client|channel|message|type|url|token|keys|algorithm"
    r"|error|flag|clock|event|lines|Redis|request|connection|subprotocol|platform|proxies|id)\b"
)
ADVICE = re.compile(
    r"\b(must|use|call|pass|leave|needs?|set|takes?|give|write|send|get|wait|add|convert|choose"
    r"|start|stop|mount|check|raise|required|limit|has|means|put|run|try|publish)\b"
    r"|pip install|did you mean",
    re.IGNORECASE,
)
Text = tuple[str, str]  # the exception's name, its text


def placeholder(node: ast.expr) -> str:
    """Return the name of what an expression is about: `channel` for `excerpt(channel)`."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Constant())):
            return "names"  # ", ".join(...)
        case ast.Call(args=[first, *_]):
            return placeholder(first)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name.lstrip("_")
        case ast.BoolOp(values=[first, *_]) | ast.Subscript(value=first):
            return placeholder(first)
    return "value"


def text_of(node: ast.expr, names: dict[str, ast.expr]) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(
                "{" + placeholder(each.value) + "}"
                if isinstance(each, ast.FormattedValue)
                else str(each.value)  # type: ignore[attr-defined]
                for each in parts
            )
        case ast.BinOp(left=left, op=ast.Add()):
            return text_of(left, names)
        case ast.Name(id=name) if name in names:
            return text_of(names[name], names)
        case ast.Call(func=ast.Name(id=name)) if name in names:
            return text_of(names[name], names)
    return None


def assigned(tree: ast.AST) -> dict[str, ast.expr]:
    """Return what names stand for: constants, and functions of one `return`."""
    found: dict[str, ast.expr] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = value
            case ast.FunctionDef(name=name, body=[*_, ast.Return(value=ast.expr() as value)]):
                found[name] = value
    return found


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call that makes an exception, with its name."""
    for node in ast.walk(tree):
        match node:
            case ast.Raise(exc=ast.Call() as call) if name_of(call)[0].isupper():
                yield name_of(call), call
            case ast.Return(value=ast.Call() as call) if name_of(call).endswith(
                ("Error", "NotRunning")
            ):
                yield name_of(call), call
            case ast.ClassDef(name=name):
                for each in ast.walk(node):
                    if isinstance(each, ast.Call) and ast.unparse(each.func) == "super().__init__":
                        if each.args and not isinstance(each.args[0], ast.Name):
                            yield name, each


@cache
def raised() -> dict[Text, str]:
    """Return each text, and where it is raised."""
    found: dict[Text, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        if where in INSIDE:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)]
        of_module = assigned(tree)
        for name, call in calls(tree):
            if name in WITHOUT_TEXT or (
                call.func and "super" in ast.unparse(call.func) and where != "errors.py"
            ):
                continue
            inside = [each for each in functions if each.lineno <= call.lineno <= each.end_lineno]
            names = of_module | (assigned(inside[-1]) if inside else {})
            nodes = [
                each for arg in call.args for each in ast.walk(arg) if isinstance(each, ast.expr)
            ]
            texts = [text_of(each, names) or "" for each in nodes if isinstance(each, ast.expr)]
            text = next((each for each in texts if " " in each), None)
            if text is None:  # it passes on the text of another one
                assert call.args, f"ws_hub/{where}:{call.lineno}: {ast.unparse(call)}"
                continue
            found.setdefault((name, text.strip()), f"ws_hub/{where}:{call.lineno}")
    return found


@cache
def rows() -> dict[Text, str]:
    """Return what the page says to do for each text."""
    found: dict[Text, str] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        row = re.fullmatch(r"\| `(\w+)` \| (`+) ?(.+?) ?\2 \| (.+) \| (.+) \|", line)
        if row is not None:
            assert (row[1], row[3]) not in found, line
            found[row[1], row[3]] = row[5]
    return found


def test_each_text_has_a_row_and_each_row_a_text() -> None:
    missing = {f"{raised()[each]}: {each}" for each in raised().keys() - rows().keys()}
    assert not missing, f"add to docs/errors.md: {sorted(missing)}"
    assert not rows().keys() - raised().keys(), "docs/errors.md has rows of texts that are gone"


# Of the page's texts, which are those that are raised, says the test above: to find the latter
# takes seconds, and each of the processes that share the tests collects them all.
@pytest.mark.parametrize("each", rows(), ids=lambda each: f"{each[0]}: {each[1][:40]}")
def test_a_text_names_the_thing_and_says_what_to_do(each: Text) -> None:
    name, text = each
    assert not re.fullmatch(r"\W*\w+\W*", text), f"{raised()[each]}: a bare word"
    if rows()[each].startswith("* "):
        return  # reviewed: the page says what the text cannot
    assert THING.search(text), f"{raised()[each]}: {name} names nothing: {text}"
    assert ADVICE.search(text), f"{raised()[each]}: {name} says not what to do: {text}"


def test_the_modules_that_are_left_out_exist_and_raise() -> None:
    for where in INSIDE:
        assert "raise " in (PACKAGE / where).read_text(encoding="utf-8"), where


def test_the_page_is_found() -> None:
    assert "\nerrors\n" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "(errors.md)" in (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")
