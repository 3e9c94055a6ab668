"""The documentation site: it is built without a warning, and its reference is complete."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import ws_hub

pytest.importorskip("sphinx")

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BUILD_TIMEOUT = 300  # seconds; it takes some ten


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT)
def test_the_site_is_built_without_a_warning_and_names_everything(tmp_path: Path) -> None:
    """As `make docs` builds it: each warning, a link to nowhere included, fails."""
    site = tmp_path / "html"
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
        + ["-d", str(tmp_path / "doctrees"), str(DOCS), str(site)],
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    named = {name for name in ws_hub.__all__ if not name.startswith("DEFAULT_")}
    settings = {"HubConfig", "ChannelRule", "ReconnectConfig"}  # have a page of their own
    assert named - documented(site) == settings
    page = re.sub(r"<[^>]+>", "", (site / "reference" / "settings.html").read_text("utf-8"))
    for config in settings:
        for field in dataclasses.fields(getattr(ws_hub, config)):
            assert re.search(rf"^{field.name} = .+$", page, re.MULTILINE), field.name


def documented(site: Path) -> set[str]:
    """Return the names of classes and functions in the index of a site."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entries = re.findall(r"^(\S+) py:(\w+) ", zlib.decompress(inventory).decode(), re.MULTILINE)
    kinds = {"class", "exception", "function"}
    return {name.rpartition(".")[2] for name, kind in entries if kind in kinds}


def test_the_summary_for_language_models_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w/.-]+)\)", (DOCS / "llms.txt").read_text("utf-8")))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    listed = {each for each in pages if not each.startswith("_build") and "index" not in each}
    assert linked == listed
