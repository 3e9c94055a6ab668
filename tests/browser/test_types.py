"""The types of the JavaScript files: what `tsc` says of them, and that they leave nothing out."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import node

# Where npm has not installed the packages yet, it does so in the first test.
pytestmark = pytest.mark.timeout(180)

PROGRAM = Path(__file__).with_name("types.ts")
OPTIONS = "--noEmit --strict --target es2022 --module nodenext --lib es2022,dom,dom.iterable"
OPTIONS += " --exactOptionalPropertyTypes --noUncheckedIndexedAccess"


def compiled(folder: Path, **programs: str) -> list[str]:
    """Return what the compiler says of programs beside `ws_hub.js`, of all at once."""
    compiler = node.need_packages() / "typescript" / "bin" / "tsc"
    (folder / "static").mkdir()
    for name in ("ws_hub.d.ts", "ws_hub_requests.d.ts", "ws_hub_state.d.ts"):
        shutil.copy(node.STATIC / name, folder)
    shutil.copy(node.STATIC / "ws_hub_log.d.ts", folder / "static")
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    for name, text in programs.items():
        (folder / f"{name}.ts").write_text(text, encoding="utf-8")
    assert node.NODE is not None
    done = subprocess.run(
        [node.NODE, str(compiler), *OPTIONS.split(), *(f"{name}.ts" for name in programs)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert bool(done.returncode) == bool(done.stdout), done.stderr
    return done.stdout.splitlines()


def test_a_program_that_uses_everything_compiles_and_mistakes_are_found(tmp_path: Path) -> None:
    """In one run of the compiler, most of whose time goes into the types of the browser."""
    mistakes = {"number": "subscribe(7)", "without_data": 'send({type: "chat", text: "hi"})'}
    head = 'import {HubClient} from "./ws_hub.js";\nnew HubClient("/ws")'
    wrong = {name: f"{head}.{call};\n" for name, call in mistakes.items()}
    lines = compiled(tmp_path, program=PROGRAM.read_text(encoding="utf-8"), **wrong)
    said = sorted(each for each in lines if not each.startswith(" "))
    assert [each.partition(",")[0] for each in said] == ["number.ts(2", "without_data.ts(2"], lines


@pytest.mark.parametrize("name", [each.name[:-5] for each in node.STATIC.glob("*.d.ts")])
def test_the_types_name_all_that_a_file_exports(name: str) -> None:
    code = (node.STATIC / f"{name}.js").read_text(encoding="utf-8")
    types = (node.STATIC / f"{name}.d.ts").read_text(encoding="utf-8")
    exports = re.compile(r"^export (?:class|function|const) (\w+)", re.MULTILINE)
    passed_on = re.findall(r"^export \{(.*)\};", code, re.MULTILINE)
    exported = {*exports.findall(code), *", ".join(passed_on).split(", ")} - {""}
    assert exported == set(exports.findall(types))
    # Of an element, what the browser calls.
    inherited = "constructor|if|for|addEventListener|connected|disconnected|attributeChanged"
    pattern = rf"^  (?:static |async |get |set )*(?!_|{inherited})(\w+)\("
    assert re.findall(pattern, code, re.MULTILINE) or "export class" not in code
    for method in re.findall(pattern, code, re.MULTILINE):
        assert re.search(rf"^  (static |readonly )?{method}[(:<]", types, re.MULTILINE), method
