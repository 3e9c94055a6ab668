"""The application of the README, copied into an empty directory and run as it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.browser.chromium import Page
from tests.integration.apps.launch import command

pytest.importorskip("flask")

README = Path(__file__).parents[2] / "README.md"
SHOWN = "document.querySelector('ws-hub-log').shadowRoot.textContent"


def block(mark: str, language: str) -> str:
    """Return the block of code that stands under a mark."""
    pattern = rf"<!-- snippet: {mark} -->\n```{language}\n(.*?)```"
    (found,) = re.findall(pattern, README.read_text("utf-8"), re.DOTALL)
    return str(found)


@pytest.mark.browser
def test_the_application_of_the_readme_shows_its_program(page: Page, tmp_path: Path) -> None:
    app, html = block("flask", "python"), block("page", "html")
    assert len((app + html).splitlines()) < 25
    (tmp_path / "app.py").write_text(app, "utf-8")
    (tmp_path / "page.html").write_text(html, "utf-8")
    with command([sys.executable, "-m", "flask", "run", "--port", "0"], cwd=tmp_path) as server:
        url = f"http://{server.host}:{server.port}/"
        page.open(url)
        page.wait_for("document.querySelector('ws-hub-log').shadowRoot !== null")
        page.eval("document.querySelector('button').click()")
        page.wait_for(f"{SHOWN}.includes('Readability counts.')")
        page.open(url)  # a page that is opened after the run
        page.wait_for(f"{SHOWN}.includes('Readability counts.')")
        page.forget()  # that there is no icon
