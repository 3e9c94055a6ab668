"""A whole configuration of nginx around a part of one, for a test's own folder."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["arguments"]


def arguments(folder: Path, text: str) -> list[str]:
    """Write what surrounds the servers in `text`; return the arguments to run it with."""
    temporary = "".join(
        f"{each}_temp_path {folder}/{each};"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log;"
        f"events {{}} http {{ {temporary} {text} }}",
        encoding="utf-8",
    )
    return ["-p", str(folder), "-c", "nginx.conf", "-e", f"{folder}/error.log"]
