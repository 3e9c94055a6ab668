"""The application of the README, copied into an empty directory and run as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.chromium import Page
from tests.support import TIMEOUT

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
    assert len((app + html).split("\n")) < 25
    (tmp_path / "app.py").write_text(app, "utf-8")
    (tmp_path / "page.html").write_text(html, "utf-8")
    command = [sys.executable, "-m", "flask", "run", "--port", "0"]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr)
            found = next(filter(None, (re.search(r"on (http://\S+)", line) for line in lines)))
            url = f"{found[1]}/"
            page.open(url)
            page.wait_for("document.querySelector('ws-hub-log').shadowRoot !== null")
            page.eval("document.querySelector('button').click()")
            page.wait_for(f"{SHOWN}.includes('Readability counts.')")
            page.open(url)  # a page that is opened after the run
            page.wait_for(f"{SHOWN}.includes('Readability counts.')")
            page.forget()  # that there is no icon
        finally:
            server.terminate()
            server.communicate(timeout=TIMEOUT)
