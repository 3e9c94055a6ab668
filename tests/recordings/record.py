"""Records what programs write: through a pipe, and in terminals of 80 and 200 columns.

    python -m tests.recordings.record                     # list what is there, and what can be made
    python -m tests.recordings.record cmake ninja         # record these again, of RECIPES below
    python -m tests.recordings.record --all               # and all of them
    python -m tests.recordings.record my-tool -- my-tool --verbose
    python -m tests.recordings.record --remove my-tool

Each recording is the bytes that a program has written, as they were read, standard error with
the standard output; `tests/unit/test_screens.py` compares what we make of them with a terminal
emulator. They are kept in one file, `outputs.xz`: for each a line of its name, its columns (0
for a pipe) and its size, separated by tabs, then its bytes. A recipe is run by `sh` in an empty
directory of its own, and all that it prints is recorded. Recipes whose program is not there are
left out, and what was recorded of them stays.

Programs print other times and other sizes each day, so that a new recording is no equal one: it
is worth making for a new program, a new version, or a new kind of output.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import lzma
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["FILE", "load", "record", "save"]

FILE = Path(__file__).with_name("outputs.xz")
WIDTHS = (None, 80, 200)  # columns; None without a terminal
HEIGHT = 24
MOST = 64 * 1024  # bytes of one recording: the beginning of a longer one
PATIENCE = 60  # seconds until a program is killed

Recordings = dict[tuple[str, int | None], bytes]

_C = """
cat > a.c <<'END'
#include <stdio.h>
int unused(int x) { int y; return x; }
int main(void) { printf("%s", 3); return 0; }
END
for n in 1 2 3 4 5 6; do printf 'int f%d(void) { return %d; }\\n' $n $n > f$n.c; done
"""
_CMAKE = f"""
{_C}
printf 'project(demo C)\\nadd_executable(demo a.c f1.c f2.c f3.c f4.c)\\n' > CMakeLists.txt
sed -i '1i cmake_minimum_required(VERSION 3.10)' CMakeLists.txt
"""
_NODE = """
cat > a.test.js <<'END'
const {test, describe} = require("node:test");
const assert = require("node:assert");
describe("numbers", () => {
  test("add", () => assert.equal(1 + 1, 2));
  test("fail", () => assert.deepEqual({a: 1, b: [1, 2]}, {a: 1, b: [1, 3]}));
  test("wait", {skip: true}, () => {});
});
END
"""
_GO = """
export HOME=$PWD GOFLAGS=-mod=mod GOPROXY=off
printf 'module demo\\ngo 1.19\\n' > go.mod
cat > a_test.go <<'END'
package demo
import "testing"
func TestGood(t *testing.T) { t.Log("a log") }
func TestBad(t *testing.T) { t.Run("inner", func(t *testing.T) { t.Errorf("want %d", 3) }) }
END
"""
_CARGO = """
cargo init -q --vcs none --name demo .
cat > src/main.rs <<'END'
fn main() { let unused = 3; }
#[test] fn good() { println!("shown"); }
#[test] fn bad() { assert_eq!(1 + 1, 3, "sums"); }
END
"""

# Name -> what it needs, a program or a module of this Python, and the script.
RECIPES: Mapping[str, tuple[str, str]] = {
    "cmake": ("cmake", f"{_CMAKE}\ncmake -S . -B build"),
    "cmake-build": ("cmake", f"{_CMAKE}\ncmake -S . -B build >/dev/null\ncmake --build build -j2"),
    "ninja": ("ninja", f"{_CMAKE}\ncmake -G Ninja -S . -B build >/dev/null\nninja -C build"),
    "make-j4": (
        "make",
        f"{_C}\nprintf 'all: f1.o f2.o f3.o f4.o a.o\\n' > Makefile\nmake -j4 CFLAGS=-Wall",
    ),
    "node-test": ("node", f"{_NODE}\nnode --test --test-reporter=spec a.test.js"),
    "node-test-tap": ("node", f"{_NODE}\nnode --test --test-reporter=tap a.test.js"),
    "go-test": ("go", f"{_GO}\ngo test -v ./..."),
    "cargo-test": ("cargo", f"{_CARGO}\ncargo test --offline"),
    "rustc-error": (
        "rustc",
        "printf 'fn main() { let x: u8 = \"a\"; y(); }' > a.rs\nrustc --color always a.rs",
    ),
    "javac-error": (
        "javac",
        "printf 'class A { int f() { return \"a\"; } void g() { h(); } }' > A.java\njavac A.java",
    ),
    "maven": ("mvn", "mvn -o -Dmaven.repo.local=$PWD/repo validate"),
    "wget": (
        "wget",
        "head -c 3000000 /dev/zero > big\n"
        'python3 -m http.server --bind 127.0.0.1 8737 >/dev/null 2>&1 & trap "kill $!" EXIT\n'
        "for n in 1 2 3 4 5 6 7 8 9; do wget -q -O /dev/null http://127.0.0.1:8737/ && break\n"
        "sleep 0.2; done\n"
        "wget --limit-rate=2m -O got http://127.0.0.1:8737/big",
    ),
    "curl-bar": ("curl", "head -c 3000000 /dev/zero > big\ncurl -# -o got file://$PWD/big"),
    "curl-table": (
        "curl",
        "head -c 900000 /dev/zero > a; curl -o b --limit-rate 900k file://$PWD/a",
    ),
    "dd-progress": (
        "dd",
        "{ for n in 1 2 3; do head -c 1000000 /dev/zero; sleep 0.6; done; } | "
        "dd of=/dev/null status=progress",
    ),
    "git-rebase": (
        "git",
        "git init -q .; git config user.name a; git config user.email a@example.com\n"
        "for n in 1 2 3 4; do echo $n > f$n; git add .; git commit -qm c$n; done\n"
        "git checkout -qb b HEAD~3; for n in 5 6 7; do echo $n > f$n; git add .\n"
        "git commit -qm c$n; done\ngit rebase --verbose -",
    ),
    "git-clone-local": (
        "git",
        "git init -q a; cd a; git config user.name a; git config user.email a@example.com\n"
        "for n in $(seq 300); do echo $n > f$n; done; git add .; git commit -qm c; cd ..\n"
        "git clone --progress file://$PWD/a b",
    ),
    "jq-colour": ("jq", 'printf \'{"a": [1, null, "x"], "b": {"c": true}}\' | jq -C .'),
    "docker-no-daemon": ("docker", "DOCKER_HOST=unix:///none docker ps"),
    "perl-die": ("perl", "printf 'my $x = ;\\nfoo bar;\\n' > a.pl; perl -w a.pl"),
    "unittest": (
        "python3",
        "printf 'import unittest\\nclass T(unittest.TestCase):\\n"
        " def test_a(self): pass\\n def test_b(self): self.assertEqual([1], [2])\\n' > test_a.py\n"
        "python3 -m unittest -v test_a",
    ),
    "enlighten": (
        "python:enlighten",
        "cat > a.py <<'END'\nimport enlighten, time\nm = enlighten.get_manager()\n"
        "s = m.status_bar('stage one', justify=enlighten.Justify.CENTER)\n"
        "a, b = m.counter(total=8, desc='outer'), m.counter(total=24, desc='inner')\n"
        "for x in range(8):\n for y in range(3):\n  time.sleep(0.03); b.update()\n"
        " print('did', x); a.update()\n if x == 4: s.update('stage two')\nm.stop()\nEND\n"
        "$PYTHON a.py",
    ),
    "alive-progress": (
        "python:alive_progress",
        "cat > a.py <<'END'\nimport time\nfrom alive_progress import alive_bar\n"
        "with alive_bar(30, title='pulls') as bar:\n for x in range(30):\n  time.sleep(0.03)\n"
        "  if x % 7 == 0: print('at', x)\n  bar()\nEND\n$PYTHON a.py",
    ),
    "yaspin": (
        "python:yaspin",
        "cat > a.py <<'END'\nimport time\nfrom yaspin import yaspin\n"
        "with yaspin(text='loads', color='yellow') as s:\n time.sleep(0.4); s.write('> one done')\n"
        " time.sleep(0.4); s.text = 'stores'; time.sleep(0.3); s.ok('v')\nEND\n$PYTHON a.py",
    ),
    "click": (
        "python:click",
        "cat > a.py <<'END'\nimport time, click\n"
        "with click.progressbar(range(25), label='items') as bar:\n"
        " for x in bar: time.sleep(0.02)\nclick.secho('done', fg='green', bold=True)\nEND\n"
        "$PYTHON a.py",
    ),
}


def load() -> Recordings:
    """Return what is recorded, by name and columns (None for a pipe)."""
    file, found = io.BytesIO(lzma.decompress(FILE.read_bytes())), Recordings()
    while head := file.readline().decode():
        name, columns, size = head.split("\t")
        found[name, int(columns) or None] = file.read(int(size))
    return found


def save(recordings: Recordings) -> None:
    """Write the file anew."""
    parts = []
    for (name, columns), data in recordings.items():
        parts += [f"{name}\t{columns or 0}\t{len(data)}\n".encode(), data]
    FILE.write_bytes(lzma.compress(b"".join(parts), preset=9 | lzma.PRESET_EXTREME))


def record(argv: Sequence[str], columns: int | None) -> bytes:
    """Return what a command writes; run in an empty directory."""
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as place:
        ours, theirs = os.pipe() if columns is None else pty.openpty()
        with os.fdopen(ours, "rb", buffering=0) as file:
            environment = {**os.environ, "PYTHON": sys.executable, "TERM": "xterm-256color"}
            for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
                environment.pop(name, None)
            if columns is not None:
                size = struct.pack("HHHH", HEIGHT, columns, 0, 0)
                fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
            program = subprocess.Popen(
                list(argv), cwd=place, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
            )  # fmt: skip
            os.close(theirs)
            too_long = threading.Timer(PATIENCE, os.killpg, (program.pid, signal.SIGKILL))
            too_long.start()
            data = b"".join(_parts(file))
            program.wait()
            too_long.cancel()
    return data[:MOST]


def _parts(file: io.FileIO | io.BufferedReader) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # EIO: the terminal has no writer any more
        while part := os.read(file.fileno(), 65536):
            yield part


def _is_there(what: str) -> bool:
    kind, _, module = what.rpartition(":")
    if not kind:
        return shutil.which(what) is not None
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True)
    return done.returncode == 0


def _record_all(recordings: Recordings, name: str, argv: Sequence[str]) -> None:
    for columns in WIDTHS:
        recordings[name, columns] = data = record(argv, columns)
        print(f"{name}-{columns or 'pipe'}: {len(data):,} bytes")


def main() -> int:
    """Record what the arguments say."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="record all recipes")
    parser.add_argument("--remove", action="store_true", help="remove these recordings")
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    arguments, argv = parser.parse_args(given[:at]), given[at + 1 :]
    recordings = load()
    names = list(RECIPES) if arguments.all else arguments.names
    if arguments.remove:
        recordings = {key: data for key, data in recordings.items() if key[0] not in names}
    elif argv:
        _record_all(recordings, names[0], argv)
    elif not names:
        print(f"{len(recordings)} recordings:", *dict.fromkeys(name for name, _ in recordings))
        print("recipes:", *RECIPES)
        return 0
    for name in [] if argv or arguments.remove else names:
        needs, script = RECIPES[name]
        if _is_there(needs):
            _record_all(recordings, name, ["/bin/sh", "-c", script])
            save(recordings)
        else:
            print(f"{name}: left out, there is no {needs}", file=sys.stderr)
    save(recordings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
