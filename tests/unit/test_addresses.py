"""Where the processes meet that have the address "local"."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ws_hub.backplane.socket_directory import SocketDirectory, new_name

FAMILY = """
import json, multiprocessing, os, sys
from ws_hub.backplane.addresses import family_directory, is_alone

def tell(queue):
    queue.put(str(family_directory()))

def of_child(method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=tell, args=(queue,))
    child.start()
    found = queue.get()
    child.join()
    return found

if __name__ == "__main__":
    found = [of_child(method) for method in sys.argv[1:]]
    given = ["local", "local?name=a", "local:///run/app", None]
    alone = [is_alone(each) for each in given]
    print(json.dumps([os.getpid(), str(family_directory()), found, alone]))
"""


def family(tmp_path: Path, *methods: str) -> Any:
    """Return the pid, the directory and those of children of a process in a family of its own."""
    program = tmp_path / "program.py"
    program.write_text(FAMILY)
    done = subprocess.run(
        [sys.executable, str(program), *methods],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def base_of(tmp_path: Path) -> Path:
    return tmp_path / f"ws-hub-{os.geteuid()}"


def test_a_parent_and_its_children_are_a_family(tmp_path: Path) -> None:
    pid, own, children, _ = family(tmp_path, "fork", "spawn")
    assert Path(own).parent == base_of(tmp_path)
    assert Path(own).name.startswith(f"{pid}-")
    assert children == [own, own]


def test_alone_is_who_has_the_address_and_no_family(tmp_path: Path) -> None:
    *_, alone = family(tmp_path)
    assert alone == [True, True, False, False]


def test_another_process_is_another_family(tmp_path: Path) -> None:
    assert family(tmp_path)[1] != family(tmp_path)[1]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory for sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as folder:
        yield Path(folder)


def test_the_directories_of_families_that_have_ended_are_removed(short: Path) -> None:
    base = base_of(short)
    living = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    kept = [f"{os.getpid()}-{living}", "notes", "999999998-5"]
    for name in [*kept, "999999999-5", f"{os.getpid()}-1"]:
        (base / name / "chat").mkdir(parents=True)
    base.chmod(0o700)
    used, _ = SocketDirectory(base / "999999998-5" / "chat").listen(new_name())
    family(short)  # a child has outlived its parent
    assert sorted(each.name for each in base.iterdir()) == sorted(kept)
    used.close()
    family(short)
    assert sorted(each.name for each in base.iterdir()) == sorted(kept[:2])


@pytest.mark.parametrize("what", ["open to others", "a link"])
def test_a_place_that_others_may_change_is_refused(tmp_path: Path, what: str) -> None:
    base = base_of(tmp_path)
    if what == "a link":
        (tmp_path / "elsewhere").mkdir(0o700)
        base.symlink_to(tmp_path / "elsewhere")
    else:
        base.mkdir()
        base.chmod(0o770)
    with pytest.raises(AssertionError, match="ConfigError: the directory of a LocalBackplane"):
        family(tmp_path)
