"""The shape of the code: packages, sizes, docstrings, locks and threads, checked over `ast`.

Each test lists every violation at once, as file:line. A rule that makes a piece of code
worse gets an entry with its reason in the table beside the rule, never a weaker rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.harness import callers

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ws_hub"
TESTS = ROOT / "tests"

# Lowest first: a package imports from those before it. "" are the helpers at the top of the
# package, "public" the modules there that stand above everything. `testing` is last: it may use
# all of them, and no other part of the package imports it.
ORDER = ("", "mask", "protocol", "access", "connection", "backplane", "process", "wsgi", "hub",
         "reconnect", "server", "public", "cli", "flask", "testing")  # fmt: skip
HELPERS = {"backoff", "cells", "config", "crew", "errors", "ip_address", "lines", "log", "origin",
           "reentrant", "rows", "signals", "threads", "validation"}  # fmt: skip
PUBLIC = {"__init__", "gunicorn", "page"}
MOST_AT_THE_TOP = 18

# Besides the package `protocol`: pure, with no socket, thread or clock of their own. True: a
# lock, and nothing else of threading.
SANS_IO = {
    "access.authenticators": False,
    "access.capacity": True,
    "access.proxies": False,
    "access.quotas": True,
    "access.token_bucket": False,
    "access.tokens": False,
    "backoff": False,
    "config": False,
    "connection.outbox": True,
    "errors": False,
    "hub.history": True,
    "hub.stats": True,
    "hub.subscriptions": True,
    "hub.users": True,
    "lines": False,
    "mask.forms": False,
    "mask.literals": False,
    "mask.masks": False,
    "mask.patterns": False,
    "mask.sequences": False,
    "mask.stream": False,
    "origin": False,
    "process.pace": False,
    "reconnect.config": False,
    "server.hosts": False,
    "validation": False,
}
IO = {"asyncio", "multiprocessing", "queue", "select", "selectors", "signal", "socket"}
IO |= {"ssl", "subprocess", "threading", "time"}

MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7
# Their callers name all but the first two or three.
MANY_PARAMETERS = {
    "backplane.publisher.send_event",
    "hub.hub.run_process",
    "hub.hub._publish",
    "hub.publisher.run_process",
    "process.process.run_process",
}

LOCKS = {"BoundedSemaphore", "Condition", "Lock", "RLock", "Semaphore"}
LOCKS |= {"LifoQueue", "PriorityQueue", "Queue", "SimpleQueue"}

Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def modules() -> dict[str, tuple[Path, str, ast.Module]]:
    """Dotted name inside ws_hub -> path, text, tree."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = (path, text, ast.parse(text))
    return found


def package_of(name: str) -> str | None:
    """The place of a module in ORDER; None for one that has no place yet."""
    head, _, rest = name.partition(".")
    if name == "__main__":
        return "cli"
    if head in ORDER[1:]:
        return head
    if rest:
        return None
    return "" if head in HELPERS else "public" if head in PUBLIC else None


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def fail_on(violations: Iterable[str]) -> None:
    found = list(violations)
    if found:
        pytest.fail(f"{len(found)} violation(s):\n" + "\n".join(found), pytrace=False)


# --- packages ------------------------------------------------------------------------------


def test_every_module_has_a_place() -> None:
    fail_on(
        f"{at(path, 1)}: {name} is in no package of ORDER, and not in HELPERS or PUBLIC"
        for name, (path, _, _) in modules().items()
        if package_of(name) is None
    )


def test_few_modules_are_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_TOP


def test_a_package_imports_only_from_lower_packages() -> None:
    """Also inside functions and under TYPE_CHECKING."""
    fail_on(_upward_imports())


def _upward_imports() -> Iterator[str]:
    for name, (path, _, tree) in modules().items():
        own = package_of(name)
        for line, target in _own_imports(name, tree):
            other = package_of(target)
            if own is None or other is None or own == other or name == "__init__":
                continue
            # The version stands in `__init__`, and every module may know it.
            if ORDER.index(other) > ORDER.index(own) and target != "__init__":
                yield f"{at(path, line)}: {name} imports {target}, of a higher package"


def test_there_is_no_import_circle() -> None:
    graph = {
        name: {target for _, target in _own_imports(name, tree) if target != "__init__"}
        for name, (_, _, tree) in modules().items()
        if not _is_package(name) and name != "__init__"
    }
    fail_on(" -> ".join(circle) for circle in _circles(graph))


def _circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> Iterator[list[str]]:
        if name in trail:
            yield [*trail[trail.index(name) :], name]
            return
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            yield from walk(target, [*trail, name])
        done.add(name)

    for name in sorted(graph):
        yield from walk(name, [])


def _own_imports(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and module of ours, for each import wherever it stands."""
    is_package = name == "__init__" or _is_package(name)
    package = name.split(".") if is_package else name.split(".")[:-1]
    if name == "__init__":
        package = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head, _, rest = alias.name.partition(".")
                if head == "ws_hub":
                    yield node.lineno, rest or "__init__"
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                source = ".".join([*base, *((node.module or "").split("."))]).strip(".")
            elif node.module == "ws_hub" or (node.module or "").startswith("ws_hub."):
                source = (node.module or "").partition(".")[2]
            else:
                continue
            for alias in node.names:
                inner = f"{source}.{alias.name}".strip(".")
                yield node.lineno, inner if inner in modules() else source or "__init__"


def _is_package(name: str) -> bool:
    return name != "__init__" and modules()[name][0].name == "__init__.py"


def test_sans_io_modules_import_no_socket_thread_or_clock() -> None:
    fail_on(_impure_imports())


def _impure_imports() -> Iterator[str]:
    pure = SANS_IO | {name: False for name in modules() if name.startswith("protocol.")}
    for name, lock_only in pure.items():
        if name not in modules():
            continue
        path, _, tree = modules()[name]
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [(node.module or "").partition(".")[0]]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if lock_only and node.value.id == "threading" and node.attr not in LOCKS:
                    yield f"{at(path, node.lineno)}: {name} uses threading.{node.attr}"
            for imported in names:
                if imported in IO and not (lock_only and imported == "threading"):
                    yield f"{at(path, node.lineno)}: {name} is sans-I/O, imports {imported}"


# --- sizes ---------------------------------------------------------------------------------


def test_functions_are_short() -> None:
    fail_on(_too_long())


def _too_long() -> Iterator[str]:
    for _, (path, _, tree) in modules().items():
        for node in ast.walk(tree):
            if not isinstance(node, Function):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
            if length > MAX_FUNCTION_LINES:
                yield (
                    f"{at(path, node.lineno)}: {node.name} has {length} lines beside its "
                    f"docstring, at most {MAX_FUNCTION_LINES}"
                )


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    if ast.get_docstring(node) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def test_functions_take_at_most_seven_parameters() -> None:
    fail_on(_too_many_parameters())


def _too_many_parameters() -> Iterator[str]:
    for name, (path, _, tree) in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                arguments = node.args
                names = [
                    each.arg
                    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
                ]
                names += [each.arg for each in (arguments.vararg, arguments.kwarg) if each]
                if names[:1] in (["self"], ["cls"]):
                    del names[0]
                allowed = f"{name}.{node.name}" in MANY_PARAMETERS
                if len(names) > MAX_PARAMETERS and not allowed:
                    yield (
                        f"{at(path, node.lineno)}: {node.name} takes {len(names)} parameters, "
                        f"at most {MAX_PARAMETERS}"
                    )


def test_no_class_is_cut_into_a_chain_of_bases() -> None:
    classes = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for _, _, tree in modules().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    ours = [base for base in classes["Hub"] if base in classes]
    assert ours == ["AbstractPublisher"]
    assert not [base for base in classes["AbstractPublisher"] if base in classes]


# --- docstrings ----------------------------------------------------------------------------


def test_every_module_says_what_it_is() -> None:
    fail_on(
        f"{at(path, 1)}: no module docstring"
        for path, _, tree in modules().values()
        if not ast.get_docstring(tree)
    )


def test_all_stands_right_after_the_imports() -> None:
    fail_on(_misplaced_all())


def _misplaced_all() -> Iterator[str]:
    for name, (path, _, tree) in modules().items():
        if name == "__main__" or (_is_package(name) and len(tree.body) == 1):
            continue
        body = tree.body[1:] if ast.get_docstring(tree) else tree.body
        rest = [node for node in body if not _is_import(node)]
        if not rest or not _assigns_all(rest[0]):
            line = rest[0].lineno if rest else 1
            yield f"{at(path, line)}: the first statement after the imports is not `__all__`"


def _is_import(node: ast.stmt) -> bool:
    """An import, or a choice between imports."""
    if isinstance(node, ast.If):
        return all(_is_import(each) for each in (*node.body, *node.orelse))
    if isinstance(node, ast.Try):
        handled = [each for handler in node.handlers for each in handler.body]
        return _is_import(node.body[0]) and not any(_assigns_all(each) for each in handled)
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _assigns_all(node: ast.stmt) -> bool:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return any(isinstance(each, ast.Name) and each.id == "__all__" for each in targets)


SPOKEN = ("AppServer", "Client", "FakeClock", "FaultProxy", "Hub", "HubClient", "Publisher",
          "ReconnectingClient")  # fmt: skip


def test_public_methods_say_which_threads_may_call_them() -> None:
    fail_on(_methods_without_threads())


def _methods_without_threads() -> Iterator[str]:
    classes = {
        node.name: (path, node)
        for path, _, tree in modules().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    waiting = [name for name in SPOKEN if name in classes]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in classes:
            continue
        seen.add(name)
        path, node = classes[name]
        waiting += [base.id for base in node.bases if isinstance(base, ast.Name)]
        for method in node.body:
            if not isinstance(method, Function) or method.name.startswith("_"):
                continue
            if any(_is_property(each) for each in method.decorator_list):
                continue
            if "Threads:" not in (ast.get_docstring(method) or ""):
                yield f"{at(path, method.lineno)}: {name}.{method.name} has no `Threads:` line"


def _is_property(decorator: ast.expr) -> bool:
    text = ast.unparse(decorator)
    return text in ("property", "overload", "typing.overload") or text.endswith(".setter")


# --- locks and threads ---------------------------------------------------------------------


def test_each_lock_and_queue_is_born_under_a_guards_comment() -> None:
    fail_on(_uncommented_locks())


def _uncommented_locks() -> Iterator[str]:
    for _, (path, text, tree) in modules().items():
        lines = text.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
                continue
            made = [each for each in ast.walk(node.value) if _makes_lock(each)]
            if made and "guards:" not in _comment_above(lines, node.lineno - 1):
                yield f"{at(path, node.lineno)}: no `# guards: ...` above {ast.unparse(node)}"


def _makes_lock(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword) and node.arg == "default_factory":
        return _last_name(node.value) in LOCKS
    return isinstance(node, ast.Call) and _last_name(node.func) in LOCKS


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _comment_above(lines: list[str], index: int) -> str:
    """The comment over a line; statements of the same kind may share one."""
    above: list[str] = []
    while index > 0 and _last_word(lines[index - 1]) in LOCKS:
        index -= 1
    while index > 0 and lines[index - 1].lstrip().startswith("#"):
        index -= 1
        above.insert(0, lines[index])
    return "\n".join(above)


def _last_word(line: str) -> str:
    match = re.search(r"=\s*(?:[\w]+\.)*(\w+)(?:\[.*\])?\(.*\)\s*$", line)
    return match[1] if match else ""


def test_locked_helpers_assert_that_the_lock_is_held() -> None:
    fail_on(_unasserted_helpers())


def _unasserted_helpers() -> Iterator[str]:
    for _, (path, _, tree) in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, Function) and node.name.endswith("_locked"):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if not body or not isinstance(body[0], ast.Assert):
                    yield f"{at(path, node.lineno)}: {node.name} does not begin with an assert"


def test_nothing_is_logged_under_a_lock() -> None:
    """A handler may be slow, and has a lock of its own, whose holder may wait for ours."""
    fail_on(_logged_under_locks())


def _logged_under_locks() -> Iterator[str]:
    for _, (path, _, tree) in modules().items():
        for held in ast.walk(tree):
            if isinstance(held, ast.With):
                holds = any(_last_name(each.context_expr).endswith("lock") for each in held.items)
            else:
                holds = isinstance(held, Function) and held.name.endswith("_locked")
            for node in ast.walk(held) if holds else ():
                if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger."):
                    yield f"{at(path, node.lineno)}: {ast.unparse(node.func)} under a lock"


def test_methods_are_grouped_by_the_thread_that_runs_them() -> None:
    fail_on(
        f"{at(modules()[name][0], 1)}: no heading `# --- ... thread ...` in {name}"
        for name in ("hub.hub", "connection.connection", "connection.sender", "reconnect.client")
        if name in modules()
        and not re.search(r"^ *# --- .*\bthreads?\b", modules()[name][1], re.MULTILINE)
    )


def test_the_modules_from_which_users_functions_are_called_are_there() -> None:
    """`reentrant` knows them by name: a module that has moved would wait for nothing."""
    assert {f"ws_hub.{name}" for name in modules()} >= callers()


MAKES_THREADS = {"Thread", "Timer", "ThreadPoolExecutor", "ProcessPoolExecutor", "Process"}
MAKES_THREADS |= {"start_new_thread", "ThreadingMixIn", "ThreadingTCPServer", "ThreadPool"}


def test_only_threads_starts_threads() -> None:
    fail_on(_strange_threads())


def _strange_threads() -> Iterator[str]:
    for name, (path, _, tree) in modules().items():
        if name == "threads":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
                made = ast.unparse(node.func)
                foreign = made.partition(".")[0] in (
                    "threading",
                    "_thread",
                    "futures",
                    "concurrent",
                )
                if made.rpartition(".")[2] in MAKES_THREADS and (foreign or "." not in made):
                    if made != "Process":  # ws_hub's own
                        yield f"{at(path, node.lineno)}: a thread not started by `threads`: {made}"
            elif isinstance(node, ast.ClassDef):
                for base in node.bases:
                    if _last_name(base) in MAKES_THREADS - {"Process"}:
                        yield f"{at(path, node.lineno)}: {node.name} is a {ast.unparse(base)}"


# --- tests ---------------------------------------------------------------------------------

SLEEPER = ("support.py", "wait_until")


def test_no_test_sleeps() -> None:
    fail_on(_sleeps())


def _sleeps() -> Iterator[str]:
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "sleep" not in text:
            continue  # to parse all tests takes seconds
        tree = ast.parse(text)
        allowed = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, Function) and (path.name, node.name) == SLEEPER
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in allowed:
                continue
            called = isinstance(node, ast.Call) and _last_name(node.func) == "sleep"
            imported = isinstance(node, ast.ImportFrom) and any(
                alias.name == "sleep" for alias in node.names
            )
            if called or imported:
                yield f"{at(path, getattr(node, 'lineno', 1))}: a test that sleeps"


# They know private names of ws_hub's objects, so that no other module of tests has to: the hub
# that a test turns, one that is served, and what fails in a system.
HARNESSES = {"harness.py", "interventions.py", "integration/apps/live.py"}

PATCHES = {"setattr", "delattr", "patched"}  # each takes an owner and the name of what it has


def test_tests_use_no_private_name_of_others() -> None:
    """A test that does fails when code moves between modules, although nothing is wrong."""
    fail_on(_private_names())


def _private_names() -> Iterator[str]:
    for path in sorted(TESTS.rglob("*.py")):
        if path.relative_to(TESTS).as_posix() not in HARNESSES:
            yield from _private_names_in(path)


def _private_names_in(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {"self", "cls", *_foreign_modules(tree)}
    defined = _defined_names(tree)
    for node in ast.walk(tree):
        used: list[str] = []
        if isinstance(node, ast.Attribute) and not _is_of(node.value, own):
            used = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and _last_name(node.func) in (
            "setattr",
            "delattr",
            "patched",
        ):
            used = [_text_of(each) for each in node.args[:2] if not _is_of(node.args[0], own)]
        for name in used:
            if _is_private(name.rpartition(".")[2]) and name not in defined:
                yield f"{at(path, node.lineno)}: {name} is private to what it belongs to"


def _is_of(owner: ast.expr, names: set[str]) -> bool:
    return isinstance(owner, ast.Name) and owner.id in names


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _text_of(node: ast.expr) -> str:
    """The text of a literal, or what an f-string begins with and goes on from."""
    if isinstance(node, ast.JoinedStr):
        return f"{_text_of(node.values[0])}*" if node.values else ""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _foreign_modules(tree: ast.Module) -> set[str]:
    """Names of modules that are neither ours nor tests: `os._exit` is theirs to rename."""
    return {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] not in ("ws_hub", "tests", "bench")
    }


def _defined_names(tree: ast.Module) -> set[str]:
    """Names of functions, classes and variables of a module, and of what it sets on `self`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (*Function, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if _is_of(node.value, {"self", "cls"}):
                found.add(node.attr)
    return found
