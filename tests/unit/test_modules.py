"""JavaScript modules joined to one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from ws_hub.server.modules import join_modules

FILES = {
    "page.js": (
        "/* The page. */\n"
        'import {both} from "./middle.js";\n'
        'import {Base, SIZE} from "./base.js";\n'
        'import {Client} from "../client.js";\n'
        "export class Page extends Base {}\n"
        "export {both};\n"
        "new Client(SIZE);\n"
    ),
    "middle.js": (
        'import {SIZE} from "./base.js";\n'
        "const own = `\nexport const text`;\n"
        "export function both() { return [SIZE, own]; }\n"
    ),
    "base.js": "export const SIZE = 7;\nexport class Base {}\nexport async function wait() {}\n"
    "export function* each() {}\n",
}


def join(files: Mapping[str, str] = FILES) -> str:
    return join_modules("page.js", files.__getitem__, {"../client.js": "../client.js?v=1"})


def test_each_module_comes_once_behind_those_that_it_imports() -> None:
    files = {**FILES, "middle.js": FILES["middle.js"].replace("\nexport const", "\n export const")}
    assert join(files) == (
        "// base.js\n"
        "const $base = (() => {\n"
        "const SIZE = 7;\nclass Base {}\nasync function wait() {}\nfunction* each() {}\n"
        "\nreturn {SIZE, Base, wait, each};\n})();\n"
        "// middle.js\n"
        "const $middle = (() => {\n"
        "const {SIZE} = $base;\n"
        "const own = `\n export const text`;\n"
        "function both() { return [SIZE, own]; }\n"
        "\nreturn {both};\n})();\n"
        "// page.js\n"
        "/* The page. */\n"
        "const {both} = $middle;\n"
        "const {Base, SIZE} = $base;\n"
        'import {Client} from "../client.js?v=1";\n'
        "export class Page extends Base {}\n"
        "export {both};\n"
        "new Client(SIZE);\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        "export default 1;",
        "export let count = 0;",
        'import "./base.js";',
        'import * as base from "./base.js";',
        'import {SIZE as size} from "./base.js";',
        'import {Client} from "../client.js";',
        'export {SIZE} from "./base.js";',
    ],
)
def test_other_forms_are_refused(line: str) -> None:
    with pytest.raises(AssertionError):
        join({**FILES, "middle.js": f"{FILES['middle.js']}{line}\n"})


@pytest.mark.parametrize("form", ["* as base", "base"])
def test_other_imports_of_the_first_one_are_refused_too(form: str) -> None:
    """Else a browser would load the module a second time."""
    with pytest.raises(AssertionError):
        join({**FILES, "page.js": f'{FILES["page.js"]}import {form} from "./base.js";\n'})


def test_modules_that_import_each_other_are_refused() -> None:
    files = {**FILES, "base.js": 'import {both} from "./middle.js";\n'}
    with pytest.raises(AssertionError, match=r"middle\.js and base\.js|base\.js and middle\.js"):
        join(files)


def test_the_documents_name_each_file_that_the_element_needs() -> None:
    root = Path(__file__).parents[2]
    needed, waiting = set[str](), ["ws_hub_log.js"]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            text = (root / "ws_hub" / "static" / name).read_text("utf-8")
            waiting += re.findall(r'"\./(\w+\.js)"', text)
    page = (root / "docs" / "browser.md").read_text("utf-8")
    (row,) = re.findall(r"^\| (`ws_hub_log\.js`.*?) \|", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+\.js)`", row)) == needed
