"""What is installed: the wheel, what it declares, and the names that it promises."""

from __future__ import annotations

import ast
import configparser
import email.parser
import email.policy
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message as Metadata
from pathlib import Path

import pytest

import ws_hub
import ws_hub.cli
from tests.support import once_a_run

ROOT = Path(__file__).resolve().parent.parent

RUN_TIME = {
    "simple-websocket": "simple_websocket",
    "websocket-client": "websocket",
    "wsproto": "wsproto",
}
# Modules and packages of ours that need an extra, and what it brings; imported by nothing but
# the user.
OPTIONAL = {
    "app_server": {"werkzeug"},
    "authenticators": {"jwt"},
    "flask": {"click", "flask", "werkzeug"},
    "json_text": {"orjson"},
    "metrics": {"prometheus_client"},
    "redis_server": {"redis"},
}


# --- names ---------------------------------------------------------------------------------


def test_every_export_is_there_once() -> None:
    assert len(ws_hub.__all__) == len(set(ws_hub.__all__))
    assert [name for name in ws_hub.__all__ if not hasattr(ws_hub, name)] == []


def test_every_promised_name_says_where_it_is_documented() -> None:
    silent = [
        name
        for name in ws_hub.__all__
        if callable(value := getattr(ws_hub, name)) and not value.__doc__
    ]
    assert silent == []


def test_importing_the_package_imports_no_extra_and_starts_nothing() -> None:
    code = (
        "import sys, threading, ws_hub\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(tops - set(sys.stdlib_module_names)))\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    ours = {"__main__", "h11", "sitecustomize", "websocket", "ws_hub", "wsproto", "coverage"}

    assert {name for name in run.stdout.split() if not name.startswith("_")} <= ours


def test_only_declared_distributions_are_imported() -> None:
    allowed = set(RUN_TIME.values()) | set(sys.stdlib_module_names) | {"ws_hub"}
    strange = []
    for path in sorted((ROOT / "ws_hub").rglob("*.py")):
        names_of = path.relative_to(ROOT / "ws_hub").with_suffix("").parts
        extra = set[str]().union(*(OPTIONAL.get(each, set()) for each in names_of))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                if name.partition(".")[0] not in allowed | extra:
                    strange.append(f"{path.name}:{node.lineno} imports {name}")
    assert strange == []


def test_the_version_has_one_source() -> None:
    code = (ROOT / "ws_hub" / "__init__.py").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    assert re.findall(r'^__version__ = "(.+)"$', code, re.MULTILINE) == [ws_hub.__version__]
    assert not re.search(r"^version *= *\"", project, re.MULTILINE)
    assert f"## {ws_hub.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_pytest_plugin_imports_nothing_of_the_package() -> None:
    """It is imported in every run of pytest, before coverage is measured."""
    code = (
        "import sys, pytest\n"
        "before = set(sys.modules)\n"
        "import _ws_hub_pytest\n"
        "print(*sorted(set(sys.modules) - before - set(sys.stdlib_module_names)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )

    assert run.stdout.split() == ["_ws_hub_pytest"]


# --- the wheel -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """A wheel built from a copy, so that the checkout stays as it is."""
    path = once_a_run(tmp_path_factory, "wheel", lambda: build(tmp_path_factory.mktemp("source")))
    with zipfile.ZipFile(path) as archive:
        yield archive


def build(source: Path) -> str:
    """Build a wheel in a folder; return its path."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "_ws_hub_pytest.py"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("ws_hub", "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=ignore)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    command += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(source / "out"), "."]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=50)
    assert run.returncode == 0, run.stderr
    (path,) = (source / "out").glob("*.whl")
    return str(path)


@pytest.fixture
def metadata(wheel: zipfile.ZipFile) -> Metadata:
    (name,) = (each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    return email.parser.Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_is_for_every_system(wheel: zipfile.ZipFile) -> None:
    name = Path(wheel.filename or "").name

    assert name == f"ws_hub-{ws_hub.__version__}-py3-none-any.whl"


def test_the_wheel_holds_every_module_the_types_and_the_page(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = ROOT / "ws_hub"
    wanted = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }

    assert "ws_hub/py.typed" in shipped
    assert shipped == wanted | {"_ws_hub_pytest.py"}


def test_the_wheel_needs_two_distributions_and_no_more(metadata: Metadata) -> None:
    needed = [each for each in metadata.get_all("Requires-Dist") or [] if "extra ==" not in each]

    assert {re.split(r"[ <>=!~;]", each)[0] for each in needed} == set(RUN_TIME)
    assert all(">=" in each for each in needed)


def test_the_wheel_names_its_license_and_its_pythons(
    wheel: zipfile.ZipFile, metadata: Metadata
) -> None:
    assert metadata["Name"] == "ws-hub"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    classifiers = metadata.get_all("Classifier") or []
    assert [each for each in classifiers if "Python :: 3.1" in each] == [
        f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)
    ]
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_every_extra_has_distributions(metadata: Metadata) -> None:
    extras = set(metadata.get_all("Provides-Extra") or [])
    declared = "\n".join(metadata.get_all("Requires-Dist") or [])

    assert {"flask", "test", "dev", "bench"} <= extras
    assert [name for name in extras if f'extra == "{name}"' not in declared] == []


def test_the_pytest_plugin_is_found_by_pytest(wheel: zipfile.ZipFile) -> None:
    (name,) = (each for each in wheel.namelist() if each.endswith("entry_points.txt"))
    entries = configparser.ConfigParser()
    entries.read_string(wheel.read(name).decode())

    assert dict(entries["pytest11"]) == {"ws_hub": "_ws_hub_pytest"}


def test_the_command_is_the_main_function_of_the_command_line(wheel: zipfile.ZipFile) -> None:
    (name,) = (each for each in wheel.namelist() if each.endswith("entry_points.txt"))
    entries = configparser.ConfigParser()
    entries.read_string(wheel.read(name).decode())

    assert dict(entries["console_scripts"]) == {"ws-hub": "ws_hub.cli:main"}
    spec = importlib.util.find_spec(ws_hub.cli.main.__module__)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    (main,) = (
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    assert ast.unparse(main.returns or ast.Constant(None)) == "int"
    required = len(main.args.args) - len(main.args.defaults)
    assert required == 0
