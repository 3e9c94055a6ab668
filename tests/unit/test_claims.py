"""Names of which each is one process's alone."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ws_hub.backplane.claims import Claims


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "made" / "claims"


@pytest.fixture
def claims(directory: Path) -> Iterator[Claims]:
    found = Claims(directory)
    yield found
    found.close()


_CODE = """
import sys
from pathlib import Path
from ws_hub.backplane.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.claim(sys.argv[2]), flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(directory: Path, name: str) -> Iterator[tuple[subprocess.Popen[str], bool]]:
    """Have another process claim a name; yield it, and whether it has."""
    command = [sys.executable, "-c", _CODE, str(directory), name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline() == "True\n"


def test_a_name_is_claimed_once_until_it_is_let_go_of(claims: Claims, directory: Path) -> None:
    assert claims.claim("a")
    assert not claims.claim("a")
    assert claims.claim("b")
    assert not Claims(directory).claim("a")
    claims.release("a")
    claims.release("a")
    assert claims.claim("a")
    claims.close()
    assert [*directory.iterdir()] == []


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 4000, "é\ud800"])
def test_any_text_is_a_name(claims: Claims, name: str) -> None:
    assert claims.claim(name)
    assert not claims.claim(name)


def test_what_a_killed_process_had_is_found_once(claims: Claims, directory: Path) -> None:
    assert claims.abandoned() == []
    claims.claim("own")
    with another_process(directory, "theirs") as (process, claimed):
        assert claimed
        assert not claims.claim("theirs")
        assert claims.abandoned() == []
        process.kill()
        process.wait()
        assert (claims.abandoned(), claims.abandoned()) == (["theirs"], [])
    assert claims.claim("theirs")


def test_what_a_killed_process_had_may_be_claimed_at_once(claims: Claims, directory: Path) -> None:
    with another_process(directory, "theirs") as (process, claimed):
        assert claimed
        process.kill()
        process.wait()
    assert claims.claim("theirs")
    assert claims.abandoned() == []


def test_a_file_that_somebody_looks_at_is_waited_for(
    claims: Claims, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims.claim("a")
    (path,) = directory.iterdir()
    claims.release("a")
    with path.open("w") as file:  # it is free, and another process is about to remove it
        fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setattr(time, "sleep", lambda seconds: file.close())
        assert claims.claim("a")
    assert not claims.claim("a")


def test_other_files_are_left_alone(claims: Claims, directory: Path) -> None:
    claims.claim("a")
    (directory / "notes.txt").write_text("mine")
    (directory / "name").mkdir()
    assert claims.abandoned() == []
    assert (directory / "notes.txt").read_text() == "mine"


def test_a_child_has_none_of_its_parents_claims(claims: Claims) -> None:
    claims.claim("a")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"%d" % claims.claim("a"))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 9) == b"0"
    os.close(reader)
    os.close(writer)
    assert not claims.claim("a")
