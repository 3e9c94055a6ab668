"""Every Python and shell snippet of README.md and docs/ is run as it stands there.

A Python snippet of the README runs alone. Those of docs/ go on from one another in a
reader's mind: they find the modules of the standard library that they use, `ws_hub`, a
hub that runs, and a process of it. A shell line runs through the entry in COMMANDS for
its first words; a command that is not there fails, so that no line goes unread.
"""

from __future__ import annotations

import gzip
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.launch import command
from tests.support import wait_until
from ws_hub import Hub, Message, serve
from ws_hub.page import page_app

ROOT = Path(__file__).resolve().parent.parent
RUN_TIMEOUT = 30.0
ADDRESS = "local:///run/app/hub"  # of a backplane, in the documents

FLASK = """
from flask import Flask
from ws_hub.flask import FlaskSessionAuth, HubExtension
app = Flask(__name__)
app.secret_key = "tests only"
app.config["WS_HUB_AUTHENTICATOR"] = FlaskSessionAuth()
hub = HubExtension(app).hub
"""
MAKEFILE = "all:\n\t@echo compiled\n"

PRELUDE = """
import contextlib, json, logging, os, signal, sys, threading, time
import ws_hub
from ws_hub import *
hub = Hub().start()
process = hub.run_process([sys.executable, "-c", "print('output')"], "standing")
text, name = "output", "stdout"
"""
POSTLUDE = """
hub.stop()
"""
# Clients of the application that a snippet makes.
VISIT = """
from simple_websocket import Client
from ws_hub.testing import AppServer
def connect(server, path="/ws", cookie=None):
    # This client names the host without its port.
    headers = {"Cookie": cookie, "Origin": "http://127.0.0.1"} if cookie else None
    client = Client.connect(f"ws://127.0.0.1:{server.port}{path}", headers=headers)
    client.send('{"type": "ping"}')
    assert "pong" in client.receive(10)
    return client
def cookie_of(**session):
    from flask.sessions import SecureCookieSessionInterface
    return "session=" + SecureCookieSessionInterface().get_signing_serializer(app).dumps(session)
@contextlib.contextmanager
def visit(path="/ws", cookie=None):
    with AppServer(app) as server:
        client = connect(server, path, cookie)
        yield client
        client.close()
        hub.stop()
"""
# Before and after a marked snippet, `<!-- snippet: NAME -->`: what it needs, and what it is
# to have done.
# Each publishes to an application at the address that stands in the document.
APPLICATION = """
import queue
heard = queue.Queue()
hub.stop()
hub = Hub(backplane="local:///run/app/hub").start()
def hear(*channels):
    for channel in channels:
        hub.listen(channel, lambda message: heard.put(message.data))
def next_event():
    return heard.get(timeout=10)["data"]
"""
BEFORE = {
    "publisher": APPLICATION
    + """
hear("news", "process:nightly")
""",
    "publisher_celery": APPLICATION
    + """
os.environ.update(BROKER_URL="memory://", WS_HUB_BACKPLANE="local:///run/app/hub")
hear("job:42")
""",
    "publisher_notebook": APPLICATION
    + """
hear("logs")
""",
    "celery": """
rule = ChannelRule(pattern="job:*", publish=True)
hub.stop()
hub = Hub(HubConfig(rules=[rule])).start()
served = serve(hub, port=0)
os.environ.update(BROKER_URL="memory://", HUB_URL=served.url, WORKER_TOKEN="secret")
""",
    "receiver": """
os.environ["WORKER_TOKEN"] = "secret"
hub.stop()
""",
    "two_ways_in": """
who = lambda token: AuthResult(token == "secret", "worker")
""",
}
# The page of the tutorial, which has no test of its own here.
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
TEMPLATE = TUTORIAL.partition("```html\n")[2].partition("```")[0]
HEARD = """
import queue
heard = queue.Queue()
hub.listen("job:42", lambda message: heard.put(message.data))
"""
AFTER = {
    "publisher": """
found = [heard.get(timeout=10) for _ in range(4)]
# Each channel has a listener of its own, and a thread: their order is anybody's.
(event,) = [each for each in found if isinstance(each, dict) and "data" in each]
assert event["data"] == {"id": 7}
found.remove(event)
found[-1].pop("usage")
assert found == [{"status": "running"}, "a nightly job", {"status": "exited", "exitCode": 0}], found
""",
    "publisher_celery": """
build.apply(args=["42"], throw=True)
assert [next_event()["state"] for _ in range(2)] == ["running", "done"]
worker_process_shutdown.send(None)
assert hub.history("process:build-42").messages[-1].data["status"] == "exited"
""",
    "publisher_notebook": """
assert next_event()["message"] == "the disk is full"
assert (live.peers(), live.keeps("process:nightly")) == (1, True)
live.close()
""",
    "tutorial_first": f"TEMPLATE = {TEMPLATE!r}"
    + """
os.makedirs("templates")
with open("build.sh", "w") as script:
    script.write("echo compiling; sleep 1; echo done")
with open("templates/project.html", "w") as template:
    template.write(TEMPLATE)
visitor = app.test_client()
assert visitor.get("/").headers["Location"] == "/projects/demo"
assert b'<ws-hub-log channel="process:build-demo"' in visitor.get("/projects/demo").data
heard = []
ended = threading.Event()
def hear(message):
    heard.append(message.data)
    if message.type == "process_status" and message.data["status"] == "exited":
        ended.set()
hub.listen("process:build-demo", hear)
for _ in range(2):  # the second one while the first runs
    assert visitor.post("/projects/demo/build").headers["Location"] == "/projects/demo"
assert ended.wait(10)
assert heard.count("compiling") == heard.count("done") == 1, heard
hub.stop()
""",
    "tutorial_event": """
for thread in threading.enumerate():
    if thread.name == "announce":
        thread.join(10)
""",
    "tutorial_login": VISIT
    + """
def log_in(server, user):
    visitor = app.test_client()
    cookie = visitor.post("/login", data={"user": user}).headers["Set-Cookie"].partition(";")[0]
    return visitor, connect(server, cookie=cookie)
with AppServer(app) as server:
    for user, answer in ("ann", "ack"), ("bob", "error"):
        visitor, client = log_in(server, user)
        client.send('{"type": "subscribe", "channel": "process:build-demo", "id": 1}')
        assert json.loads(client.receive(10))["type"] == answer
    assert [each.user_id for each in hub.all_clients()] == ["ann", "bob"]
    visitor.post("/logout")
    try:
        client.receive(10)
    except Exception as error:
        assert error.reason == 4401, error
    else:
        raise AssertionError("a user who has logged out stays connected")
    hub.stop()
""",
    "login": """
import websocket
with hub, serve(hub, port=0) as served:
    for secret, answer in ("a secret of ann", "ack"), ("a secret of bob", "error"):
        header = [f"Authorization: Bearer {secret}"]
        with contextlib.closing(websocket.create_connection(served.url, header=header)) as socket:
            socket.send('{"type": "subscribe", "channel": "room:cats", "id": 1}')
            assert json.loads(socket.recv())["type"] == answer
""",
    "rooms": """
import websocket
with hub, serve(hub, port=0) as served:
    def enter(name):
        socket = websocket.create_connection(served.url)
        socket.send(json.dumps({"type": "name", "data": name}))
        socket.send(json.dumps({"type": "subscribe", "channel": "room:cats"}))
        return socket
    def told(socket):
        message = json.loads(socket.recv())
        assert message["type"] == "presence", message
        return [[each.get("info") for each in message["data"][key]] for key in ("join", "leave")]
    ann = enter("ann")
    assert told(ann) == [["ann"], []]
    bob = enter("bob")
    assert told(ann) == [["bob"], []]
    assert told(bob) == [["bob"], []]
    bob.send('{"type": "say", "channel": "room:cats", "data": "hello", "id": 1}')
    heard = json.loads(ann.recv())
    assert heard["data"] == {"event": "said", "data": ["bob", "hello"]}, heard
    bob.close()
    assert told(ann) == [[], [None]]
    ann.close()
""",
    "presence": """
import websocket
with hub, serve(hub, port=0) as served:
    socket = websocket.create_connection(served.url)
    for channel in "news", "room:1":
        socket.send(json.dumps({"type": "subscribe", "channel": channel, "id": 1}))
    states = []
    while len(states) < 2:
        message = json.loads(socket.recv())
        if message["type"] == "ack":
            states.append(message["data"]["presence"])
    assert [sorted(each) for each in states] == [
        ["connections", "users"], ["connections", "members", "users"]
    ]
    assert names() == ["somebody"]
    socket.close()
""",
    "presence_client": """
hub.stop()
hub = Hub(HubConfig(rules=[ChannelRule(pattern="room:*", presence=True)])).start()
with serve(hub, port=0) as served:
    came = threading.Event()
    config = ReconnectConfig(url=served.url, on_presence=lambda *change: came.set())
    with ReconnectingClient(config) as client:
        client.subscribe("room:1")
        assert came.wait(10)
        assert client.presence("room:1").users == 1
""",
    "pool": HEARD
    + """
pool.shutdown()
resize("42", ["c.png"])
assert heard.get(timeout=10)["data"] == {"done": 1, "of": 1}
""",
    "progress": HEARD
    + """
work("42", [int, str])
assert heard.get(timeout=10)["data"] == {"state": "running", "done": 1, "of": 2}
with serve(hub, port=0) as served:
    config = ReconnectConfig(url=served.url)
    with ReconnectingClient(config) as late:
        late.subscribe("job:42")
        late.start()
        assert next(iter(late)).data["data"] == {"state": "done", "done": 2, "of": 2}
""",
    "keyed": """
with serve(board) as server, ReconnectingClient(server.url) as client:
    client.subscribe("servers")
    assert next(iter(client)).key == "web-2"
    assert {key: each.data["data"] for key, each in client.snapshot("servers").items()} == {
        "web-2": 0.2
    }
board.stop()
""",
    "dashboard": """
import queue
heard = queue.Queue()
listener = hub.listen("dashboard", lambda message: heard.put(message.data))
assert heard.get(timeout=10)["data"]["load"] >= 0
hub.stop()
assert stop.is_set()
""",
    "receiver": """
import websocket
with hub, serve(hub, port=0) as served:
    worker = websocket.create_connection(served.url, header=["Authorization: Bearer secret"])
    worker.send('{"type": "publish", "channel": "job:42", "data": 1, "id": "p"}')
    assert json.loads(worker.recv())["type"] == "ack"
    worker.close()
    try:
        websocket.create_connection(served.url, header=["Authorization: Bearer guessed"])
    except websocket.WebSocketBadStatusException as error:
        assert error.status_code == 401
    else:
        raise AssertionError("a guessed token is accepted")
""",
    "two_ways_in": VISIT
    + """
from flask import Flask
from ws_hub.flask import HubExtension
hub.stop()
app = Flask("two")
app.secret_key = "tests only"
app.config["WS_HUB_AUTHENTICATOR"] = authenticate
hub = HubExtension(app).hub
with AppServer(app) as server:
    with ReconnectingClient(f"ws://127.0.0.1:{server.port}/ws", token="secret") as worker:
        worker.request(Message("ping"), timeout=10)
        page = connect(server, cookie=cookie_of(user="ann"))
        assert [each.user_id for each in hub.all_clients()] == ["worker", "ann"]
        page.close()
    hub.stop()
""",
    "celery": HEARD
    + """
worker_process_init.send(None)
from ws_hub import ConnectionState
deadline = time.monotonic() + 10
while live.state is not ConnectionState.CONNECTED and time.monotonic() < deadline:
    time.sleep(0.01)
build.apply(["42"], throw=True)
assert [heard.get(timeout=10)["state"] for _ in range(2)] == ["running", "done"]
worker_process_shutdown.send(None)
build.apply(["42"], throw=True)  # a report that reaches nobody is no failure of the task
served.close()
""",
    "flask": """
lines, exited = [], threading.Event()
def seen(message):
    if message.type == "process_output":
        lines.append(message.data)
    elif message.data["status"] == "exited" and message.data["exitCode"] == 0:
        exited.set()  # not for the one that is terminated
hub.start()
import sys
going = hub.run_process([sys.executable, "-c", "import time; time.sleep(60)"], "42")
answer = app.test_client().post("/run")  # a second press of the button
assert answer.status_code == 202, answer
going.terminate()
going.wait(20)
hub.listen("process:42", seen)
answer = app.test_client().post("/run")
assert answer.status_code == 202, answer
assert exited.wait(20)
assert "Readability counts." in lines, lines
hub.stop()
""",
    "callbacks": """
import websocket
with hub, serve(hub) as site, contextlib.closing(websocket.create_connection(site.url)) as socket:
    def ask(kind, **fields):
        socket.send(json.dumps({"type": kind, "channel": "room:1", "id": 1, **fields}))
        heard = [json.loads(socket.recv()) for _ in range(2)]
        heard.sort(key=lambda each: each["type"])
        return [each["data"] for each in heard]
    me = f"guest {hub.all_clients()[0].id}"
    assert ask("subscribe") == [{"channel": "room:1"}, {"event": "entered", "data": me}]
    said = [{"said": True}, {"event": "said", "data": [me, "hello"]}]
    assert ask("chat", data="hello") == said
""",
    "attach": VISIT
    + """
hub.start()
with visit(cookie=cookie_of(user_id=7)) as client:
    client.send('{"type": "subscribe", "channel": "news", "id": 1}')
    assert '"ack"' in client.receive(10)
    assert [each.user_id for each in hub.all_clients()] == ["7"]
""",
    "migrated": VISIT
    + """
with AppServer(app) as server:
    ann, bob = (connect(server, cookie=cookie_of(user=user)) for user in ("ann", "bob"))
    ann.send('{"type": "say", "data": "hello", "id": 1}')
    answer = json.loads(ann.receive(10))
    assert (answer["type"], answer["data"]) == ("ack", "ok"), answer
    heard = json.loads(bob.receive(10))
    assert heard["data"] == {"event": "said", "data": ["ann", "hello"]}, heard
    job()
    for client in ann, bob:  # and not what ann has said
        assert json.loads(client.receive(10))["data"] == {"event": "progress", "data": 50}
        client.close()
    hub.stop()
""",
    "flask_first": """
client = app.test_client()
assert client.post("/say", json="hello").get_json() == {"listening": 0}
assert client.get("/ws").status_code == 426
assert client.get("/ws_hub.js").status_code == 200
hub.stop()
""",
    "flask_settings": """
assert hub.config.max_connections == 500
assert hub.config.rule_for("chat:1").history_messages == 100
""",
    "flask_factory": """
heard = threading.Event()
assert app.test_client().get("/none").status_code == 404  # the hub starts
live.hub.listen("news", lambda message: heard.set())
assert app.test_client().post("/news/hello").status_code == 204
assert heard.wait(10)
assert live.hub.config.max_connections == 500
live.hub.stop()
""",
    "flask_callbacks": VISIT
    + """
with visit("/ws?shop=3") as client:
    client.send('{"type": "order", "id": 1}')
    assert json.loads(client.receive(10))["data"] == {"shop": "3"}
""",
    "flask_login": VISIT
    + """
from flask_login import login_user
app.add_url_rule("/login", "login", lambda: str(login_user(User("7"))))
cookie = app.test_client().get("/login").headers["Set-Cookie"].partition(";")[0]
app.login_manager.session_protection = None  # the test client has another User-Agent
with visit(cookie=cookie) as client:
    for channel, answer in (("user:7", "ack"), ("user:8", "error")):
        client.send(json.dumps({"type": "subscribe", "channel": channel, "id": 1}))
        assert json.loads(client.receive(10))["type"] == answer
    assert [each.user_id for each in hub.all_clients()] == ["7"]
""",
    "guests": VISIT
    + """
app.add_url_rule("/", "home", lambda: "")
with AppServer(app) as server:
    cookie = app.test_client().get("/").headers["Set-Cookie"].partition(";")[0]
    guest, ann = connect(server, cookie=cookie), connect(server, cookie=cookie_of(user="ann"))
    for client, answer in (guest, "error"), (ann, "ack"):
        client.send('{"type": "subscribe", "channel": "room:1", "id": 1}')
        assert json.loads(client.receive(10))["type"] == answer
    first, second = [each.user_id for each in hub.all_clients()]
    assert first.startswith("guest-") and second == "ann", (first, second)
    guest.close()
    ann.close()
    hub.stop()
""",
    "eventlet": VISIT
    + """
with visit("/ws") as client:
    client.send('{"type": "join", "data": {"room": "b1"}}')
    assert json.loads(client.receive(10))["data"]["event"] == "joined"
    assert app.test_client().post("/builds/b1").status_code == 202
    for step in range(3):
        found = json.loads(client.receive(10))
        assert found["data"] == {"event": "progress", "data": {"step": step}}, found
""",
    "django": VISIT.replace("app", "application")
    + """
with visit("/ws") as client:
    hub.send_event("said")
    assert "said" in client.receive(10)
""",
    "django_login": """
import django
django.setup()
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
User.objects.create_user("ann", password="tests only")
visitor = Client()
assert visitor.login(username="ann", password="tests only")
environ = {"HTTP_COOKIE": "sessionid=" + visitor.cookies["sessionid"].value}
authenticator = hub.config.authenticator
assert authenticator(environ) == AuthResult(True, "1", error="not logged in")
assert not authenticator({"HTTP_COOKIE": "sessionid=forged"}).valid
assert not authenticator({}).valid
from django.db import connections
connections.close_all()
""",
}
# The settings that a snippet of Django finds.
DJANGO = """
SECRET_KEY = "tests only"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "site_settings"
urlpatterns = []
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "database"}}
"""


# A snippet marked by one of these is a module of tests, and is run alone by this one.
RUNNERS = {"pytest": ["pytest", "-p", "no:cacheprovider"], "unittest": ["unittest"]}


@dataclass(frozen=True)
class Snippet:
    path: Path
    line: int
    language: str
    code: str
    mark: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def snippets(*languages: str) -> list[Snippet]:
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if not path.exists():
            continue
        mark, language, start, block = "", None, 0, list[str]()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if language is not None:
                if line.strip() == "```":
                    if language in languages:
                        code = "\n".join(block) + "\n"
                        found.append(Snippet(path, start, language, code, mark))
                    mark, language = "", None
                else:
                    block.append(line)
            elif match := re.fullmatch(r"```(\w*)\s*", line):
                language, start, block = match[1], number + 1, []
            elif match := re.fullmatch(r"<!-- snippet: (\w+) -->", line.strip()):
                mark = match[1]
    return found


def test_the_documents_have_snippets() -> None:
    assert snippets("python", "py")
    assert snippets("sh", "console", "bash")


def test_every_check_of_a_snippet_belongs_to_one() -> None:
    marks = {each.mark for each in snippets("python", "py")}
    assert {*BEFORE, *AFTER, *RUNNERS} <= marks


def test_every_snippet_says_its_language() -> None:
    known = {
        "python",
        "sh",
        "console",
        "js",
        "json",
        "html",
        "text",
        "ini",
        "nginx",
        "toml",
        "dockerfile",
        "",
    }

    assert {each.language for each in snippets(*known, "py", "bash", "shell")} <= known


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A directory with what the snippets suppose: a Makefile."""
    (tmp_path / "Makefile").write_text(MAKEFILE, encoding="utf-8")
    (tmp_path / "site_settings.py").write_text(DJANGO, encoding="utf-8")
    (tmp_path / "app.py").write_text(FLASK, encoding="utf-8")
    return tmp_path


@pytest.fixture
def short_place() -> Iterator[Path]:
    """A directory for the sockets of a backplane, whose paths are short."""
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as folder:
        yield Path(folder)


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    set_here = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, "PATH": path, "DJANGO_SETTINGS_MODULE": "site_settings", **set_here}


@pytest.mark.parametrize("snippet", snippets("python", "py"), ids=str)
def test_a_python_snippet_runs(snippet: Snippet, workplace: Path, short_place: Path) -> None:
    code, command, alone = snippet.code, ["snippet.py"], snippet.path.name == "README.md"
    if snippet.mark in RUNNERS:
        command, alone = ["-m", *RUNNERS[snippet.mark], "snippet.py"], True
    if not alone:
        code = PRELUDE + BEFORE.get(snippet.mark, "") + code
    code = code.replace(ADDRESS, f"local://{short_place}/hub")
    if snippet.mark in AFTER:
        code += "import threading\n" + AFTER[snippet.mark]
    if not alone:
        code += POSTLUDE
    (workplace / "snippet.py").write_text(code, encoding="utf-8")

    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", *command],
        cwd=workplace,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT,
    )

    assert run.returncode == 0, f"{snippet}\n{run.stdout}\n{run.stderr}"
    assert "Traceback" not in run.stderr, f"{snippet}\n{run.stderr}"


# --- the shell -----------------------------------------------------------------------------


def run_make(words: list[str], workplace: Path) -> None:
    """The targets take minutes: here they only have to exist and to make sense."""
    run = subprocess.run(
        ["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout


def run_pip(words: list[str], workplace: Path) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for word in words[2:]:
        if word.startswith("-"):
            continue
        if f'"{word}>=' in project:  # the tests install it as well
            continue
        match = re.fullmatch(r"ws-hub(?:\[([\w,-]+)\])?", word)
        assert match, f"not our distribution: {word}"
        for extra in (match[1] or "").split(","):
            assert not extra or re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def start(words: list[str], workplace: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ws_hub", *words],
        cwd=workplace,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def interrupt(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=RUN_TIMEOUT)
    assert "Traceback" not in output, output
    return output


def run_command(words: list[str], workplace: Path) -> None:
    """`ws-hub run`: to the end; with `--wait` until it is interrupted then; `-` reads nothing."""
    split = words.index("--") if "--" in words else words.index("-")
    options = _without(words[2:split], "--port")
    with start(["run", "--port", "0", *options, *words[split:]], workplace) as process:
        assert process.stdout is not None
        if "--wait" in options:
            while "exited" not in (line := process.stdout.readline()):
                assert line, "ended by itself"
            interrupt(process)
        else:
            output, _ = process.communicate(timeout=RUN_TIMEOUT)
            assert process.returncode == 0, output
            assert "http://127.0.0.1:" in output


def run_up(words: list[str], workplace: Path) -> None:
    """`ws-hub up`: until the first of its programs is started, then it is interrupted."""
    for name in ("Procfile", "Procfile.dev"):
        programs = "".join(f"{each}: sleep 60\n" for each in ("web", "worker", "mailer"))
        (workplace / name).write_text(programs, encoding="utf-8")
    with start(["up", "--port", "0", *_without(words[2:], "--port")], workplace) as process:
        assert process.stdout is not None
        while "* started" not in (line := process.stdout.readline()):
            assert line, "ended by itself"
        interrupt(process)
        assert process.returncode == 130


def run_serve(words: list[str], workplace: Path) -> None:
    with start(["serve", "--port", "0", *_without(words[2:], "--port")], workplace) as process:
        assert process.stdout is not None
        assert "http://" in process.stdout.readline()
        interrupt(process)


def run_tail(words: list[str], workplace: Path) -> None:
    """`ws-hub tail URL CHANNEL...`: against a hub of ours in place of the one it names."""
    index, url = next(pair for pair in enumerate(words) if pair[1].startswith("ws://"))
    channel = words[index + 1]
    with Hub() as hub, serve(hub, path="/" + url.split("/", 3)[3]) as server:
        words[index] = server.url
        with start(words[1:], workplace) as process:
            try:
                wait_until(lambda: hub.has_subscribers(channel), RUN_TIMEOUT)
                hub.send_to_channel(channel, Message("event", data="shown"))
                assert process.stdout is not None
                while "shown" not in (line := process.stdout.readline()):
                    assert line, "ended by itself"
            finally:
                interrupt(process)


def run_publish(words: list[str], workplace: Path) -> None:
    """`ws-hub publish`: to a hub of ours; `-` reads what a program before it has written."""
    channel = next(each for each in words if each in ("news", "jobs", "process:make"))
    heard: queue.Queue[Any] = queue.Queue()  # guards: itself.
    with tempfile.TemporaryDirectory(prefix="wsh-", dir="/tmp") as folder:
        address = f"local://{folder}/hub"
        with Hub(backplane=address) as hub:
            hub.listen(channel, lambda message: heard.put(message.data))
            command = [sys.executable, "-m", "ws_hub", *words[1:]]
            run = subprocess.run(
                [address if word == ADDRESS else word for word in command],
                input="compiled\n",
                env=environment(),
                capture_output=True,
                text=True,
                timeout=RUN_TIMEOUT,
            )
            assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
            assert heard.get(timeout=RUN_TIMEOUT) in ("a text", "compiled", JOB)


JOB = {"id": 7, "state": "done"}


def run_gunicorn(words: list[str], workplace: Path) -> None:
    argv = [sys.executable, "-m", *words, "--bind", "127.0.0.1:0", "--no-control-socket"]
    with command([*argv, "--chdir", str(workplace)]) as running:
        assert running.get("/ws").status == 426


def run_flask(words: list[str], workplace: Path) -> None:
    """`flask ws-hub tail`: against a server of ours, until it is connected."""
    flask = [sys.executable, "-m", "flask", "--app", str(workplace / "app.py")]
    if "tail" not in words:
        run = subprocess.run([*flask, *words[1:]], capture_output=True, text=True, timeout=30)
        assert run.returncode == 0, run.stderr
        return
    with command([*flask, "run", "--port", "0"]) as running:
        url = f"http://{running.host}:{running.port}"
        tail = [*flask, *words[1:], "--url", url]
        pipe = subprocess.PIPE
        with subprocess.Popen(tail, stderr=pipe, stdout=pipe, text=True) as process:
            assert process.stderr is not None
            try:
                while "connected to" not in (line := process.stderr.readline()):
                    assert line, "ended by itself"
            finally:
                interrupt(process)


def _without(words: list[str], option: str) -> list[str]:
    """Words without an option and its value: ports are ours to choose."""
    left = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == option:
            skip = True
        elif not word.startswith(option + "="):
            left.append(word)
    return left


def run_log(words: list[str], workplace: Path) -> None:
    """`ws-hub log`: of a hub of ours in place of the one it names, or of a file that is made."""
    with Hub() as hub, serve(hub, app=page_app(hub)) as server:
        hub.send_process_output("make", "error: one")
        wait_until(lambda: hub.read_log("make").lines)
        for at, word in enumerate(words):
            if word.startswith("http://"):
                words[at] = f"http://127.0.0.1:{server.port}/"
            elif word.endswith(".gz"):
                (workplace / word).parent.mkdir(parents=True, exist_ok=True)
                (workplace / word).write_bytes(gzip.compress(b"error: one\n"))
        with start(words[1:], workplace) as process:
            output, _ = process.communicate(timeout=RUN_TIMEOUT)
            assert process.returncode == 0, output
            assert "error: one" in output


COMMANDS: dict[str, Callable[[list[str], Path], None]] = {
    "make": run_make,
    "pip install": run_pip,
    "flask ws-hub": run_flask,
    "gunicorn": run_gunicorn,
    "ws-hub run": run_command,
    "ws-hub up": run_up,
    "ws-hub serve": run_serve,
    "ws-hub tail": run_tail,
    "ws-hub log": run_log,
    "ws-hub publish": run_publish,
}


def shell_lines() -> list[tuple[str, str]]:
    """(where, line) of every command in the documents."""
    found = []
    for snippet in snippets("sh", "console"):
        lines = snippet.code.replace("\\\n", " " * 2).splitlines()
        for offset, line in enumerate(lines):
            if snippet.language == "console":
                if not line.startswith("$ "):
                    continue  # what it prints
                line = line[2:]
            if line.strip() and not line.lstrip().startswith("#"):
                place = f"{snippet.path.relative_to(ROOT)}:{snippet.line + offset}"
                found.append((place, line.strip()))
    return found


@pytest.mark.parametrize(
    ("place", "line"), shell_lines(), ids=[f"{place} {line[:40]}" for place, line in shell_lines()]
)
def test_a_shell_line_runs(place: str, line: str, workplace: Path) -> None:
    words = shlex.split(line, comments=True)
    words = words[words.index("|") + 1 :] if "|" in words else words
    for start_words, run in COMMANDS.items():
        if words[: len(start_words.split())] == start_words.split():
            run(words, workplace)
            return
    pytest.fail(f"{place}: no entry in COMMANDS runs {line!r}", pytrace=False)
