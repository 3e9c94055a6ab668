"""The viewer as a WSGI application, called as a server calls it."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from ws_hub.config import HubConfig
from ws_hub.errors import ConfigError
from ws_hub.hub.hub import Hub
from ws_hub.server.viewer import CLIENT, page_app, script_app

ROOT = Path(__file__).parents[2]
Response = tuple[str, dict[str, str], bytes]


def get(app: Any, path: str, method: str = "GET", **environ: str) -> Response:
    """Call an application with every rule of WSGI checked."""
    request: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": ""}
    request["QUERY_STRING"] = ""
    request |= environ
    setup_testing_defaults(request)
    answer: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answer.extend((status, dict(headers)))
        return lambda data: None

    result = validator(app)(request, start_response)
    try:
        body = b"".join(result)
    finally:
        result.close()
    return answer[0], answer[1], body


def test_the_page_names_its_websocket_and_its_channel() -> None:
    status, headers, body = get(page_app(Hub(), ws_path="/live", channel="process:b"), "/")
    assert status == "200 OK"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert b'<body data-ws="./live" data-channel="process:b" ' in body
    assert int(headers["Content-Length"]) == len(body)


def test_configured_values_are_escaped() -> None:
    hub = Hub(HubConfig(channel_name=lambda name: True))
    body = get(page_app(hub, channel='"><script>'), "/")[2]
    assert b'data-channel="&quot;&gt;&lt;script&gt;"' in body


def test_the_page_knows_where_places_in_files_lead_to() -> None:
    template = 'https://code.example/"o"/{file}?l={line}'
    app = page_app(Hub(), source_url=template, source_root="/home/<ci>")
    body = get(app, "/")[2]
    assert b'data-source-url="https://code.example/&quot;o&quot;/{file}?l={line}"' in body
    assert b'data-source-root="/home/&lt;ci&gt;"' in body
    assert b'data-source-url="" data-source-root=""' in get(page_app(Hub()), "/")[2]


@pytest.mark.parametrize(
    "template",
    [
        "javascript:{file}",
        "https://{file}/",
        "https://x.example{file}",
        "https://a@x.example/{file}",
        "https://x.example/{line}",
        "//x.example/{file}",
        "{file}",
        None,
    ],
)
def test_where_places_lead_to_must_be_an_address(template: Any) -> None:
    with pytest.raises(ConfigError, match="source_url must be an http or https address"):
        page_app(Hub(), source_url=template)
    root: Any = None
    with pytest.raises(TypeError, match="source_root must be a folder"):
        page_app(Hub(), source_root=root)


def test_fault_102_every_address_on_the_page_is_relative() -> None:
    body = get(page_app(Hub()), "/", SCRIPT_NAME="/tools/hub")[2].decode()
    assert 'data-ws="./ws"' in body
    assert not [each for each in ("href", "src", "action", "data-ws") if f'{each}="/' in body]


def test_a_prefix_without_a_slash_is_redirected_to_the_page() -> None:
    app = page_app(Hub())
    status, headers, _ = get(app, "", SCRIPT_NAME="/hub", QUERY_STRING="channel=a")
    assert (status, headers["Location"]) == ("308 Permanent Redirect", "./hub/?channel=a")
    for name, place in (("/hub", "./hub/"), ("/a/b:c é?", "./b%3Ac%20%C3%A9%3F/")):
        script_name = name.encode().decode("latin-1")
        assert get(app, "", SCRIPT_NAME=script_name)[1]["Location"] == place


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/ws_hub.js", "text/javascript; charset=utf-8"),
        ("/static/viewer.js", "text/javascript; charset=utf-8"),
        ("/static/viewer.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
    ],
)
def test_files_are_served_with_their_type_and_a_tag(path: str, kind: str) -> None:
    app = page_app(Hub())
    status, headers, body = get(app, path)
    assert (status, headers["Content-Type"]) == ("200 OK", kind)
    assert body
    tag = headers["ETag"]
    for known in tag, f"W/{tag}", f'"another", W/{tag}':  # a proxy that compresses makes it weak
        again = get(app, path, HTTP_IF_NONE_MATCH=known)
        assert (again[0], again[2]) == ("304 Not Modified", b"")
    assert get(app, path, HTTP_IF_NONE_MATCH='"another", W/"third"')[2] == body


@pytest.mark.parametrize("path", ["/", "/ws_hub.js", "/api/channels", "/nothing"])
def test_every_response_has_the_security_headers(path: str) -> None:
    headers = get(page_app(Hub()), path)[1]
    policy = dict(
        each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_has_no_inline_script_and_no_foreign_url() -> None:
    body = get(page_app(Hub()), "/")[2].decode()
    assert body.count("<script") == body.count('<script type="module" src="static/') == 1
    assert "<style" not in body and "style=" not in body and " on" + "click=" not in body
    assert "//" not in body.replace("<!doctype html>", "")


def test_the_page_loads_with_a_few_files_that_a_browser_keeps() -> None:
    app = page_app(Hub())
    body = get(app, "/")[2].decode()
    named = [each for each in re.findall(r'(?:href|src)="([^"]+)"', body) if "?v=" in each]
    assert [each.partition("?")[0] for each in named] == [
        "static/viewer.css",
        "ws_hub.js",
        "static/page.js",
    ]
    for address in named:
        path, _, query = f"/{address}".partition("?")
        assert "immutable" in get(app, path, QUERY_STRING=query)[1]["Cache-Control"]
        for other in "", "v=", query + "0":  # of another version
            assert get(app, path, QUERY_STRING=other)[1]["Cache-Control"] == "no-cache"
    script = get(app, "/static/page.js")[2].decode()
    imported = re.findall(r'^import [^;]* from "([^"]+)";', script, re.M)
    assert [urljoin("/static/page.js", each) for each in imported] == [f"/{named[1]}"]


@pytest.mark.parametrize("path", ["/static/page.js", "/ws_hub.js", "/static/viewer.css"])
def test_files_are_compressed_for_those_that_read_it(path: str) -> None:
    app = page_app(Hub())
    _, plain, body = get(app, path)
    assert "Content-Encoding" not in plain
    tags = {plain["ETag"]}
    for accepted in "gzip", "br, GZip;q=0.5", "deflate, *", "*;q=0, gzip":
        _, headers, packed = get(app, path, HTTP_ACCEPT_ENCODING=accepted)
        assert headers["Content-Encoding"] == "gzip"
        assert len(packed) == int(headers["Content-Length"]) < len(body) / 2
        assert gzip.decompress(packed) == body
        tags.add(headers["ETag"])
    assert len(tags) == 2  # another representation has another one
    tag = headers["ETag"]
    again = get(app, path, HTTP_ACCEPT_ENCODING="gzip", HTTP_IF_NONE_MATCH=tag)
    assert (again[0], again[2]) == ("304 Not Modified", b"")
    for accepted in "br", "gzip;q=0", "identity", "*; q=0.000", "xgzip", "*, gzip;q=0":
        assert get(app, path, HTTP_ACCEPT_ENCODING=accepted)[2] == body


@pytest.mark.parametrize(
    "path", ["/static/", "/static/../page.py", "/static/%2e%2e/page.py", "/static/index.html", "/x"]
)
def test_other_paths_are_404(path: str) -> None:
    assert get(page_app(Hub()), path)[0] == "404 Not Found"


def test_other_paths_are_passed_to_the_fallback() -> None:
    def other(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    app = page_app(Hub(), fallback=other)
    assert get(app, "/shop")[2] == b"/shop"
    assert get(app, "/api/channels")[1]["Content-Type"].startswith("application/json")


# --- the scripts alone ---------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/", "/js", "/js/"])
def test_script_app_serves_the_client_and_its_parts_below_a_folder(folder: str) -> None:
    app, page = script_app(Hub(), folder=folder), page_app(Hub())
    below = folder.rstrip("/")
    for name in CLIENT:
        assert get(app, f"{below}/{name}") == get(page, f"/{name}")
    status, headers, _ = get(app, f"{below}/ws_hub_log.js")
    assert (status, headers["Location"]) == ("308 Permanent Redirect", "./ws_hub/ws_hub_log.js")
    for name in "ws_hub_log.js", "log.js", "ansi.js":
        assert get(app, f"{below}/ws_hub/{name}") == get(page, f"/static/{name}")


def test_script_app_gives_away_nothing_else() -> None:
    app = script_app(Hub())
    for path in "/", "/api/channels", "/static/log.js", "/ws_hub/", "/ws_hub/viewer.css":
        assert get(app, path)[0] == "404 Not Found"
    assert get(app, "/ws_hub.js", "POST")[0] == "405 Method Not Allowed"

    def other(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    assert get(script_app(Hub(), fallback=other), "/static/log.js")[2] == b"/static/log.js"


@pytest.mark.parametrize("folder", ["js", "", "/js?x", None])
def test_script_app_refuses_a_folder_that_is_no_path(folder: Any) -> None:
    with pytest.raises((ConfigError, TypeError), match="folder must"):
        script_app(Hub(), folder=folder)
    with pytest.raises(TypeError, match="takes a Hub as hub"):
        script_app(folder)


def test_head_is_the_response_without_its_body() -> None:
    app = page_app(Hub())
    status, headers, body = get(app, "/", "HEAD")
    assert (status, body) == ("200 OK", b"")
    assert headers["Content-Length"] == get(app, "/")[1]["Content-Length"]


def test_other_methods_than_get_and_head_are_405() -> None:
    status, headers, _ = get(page_app(Hub()), "/", "POST")
    assert (status, headers["Allow"]) == ("405 Method Not Allowed", "GET, HEAD")


@pytest.mark.parametrize("setting", ["authenticator", "channel_authoriser"])
def test_fault_56_hub_with_an_authoriser_lists_no_channels(setting: str) -> None:
    hub = Hub(HubConfig(**{setting: lambda *arguments: None}))
    status, _, body = get(page_app(hub), "/api/channels")
    assert status == "403 Forbidden" and b"not listed" in body


def channels(app: Any, query: str = "") -> Any:
    return json.loads(get(app, "/api/channels", QUERY_STRING=query)[2])


def test_the_channels_with_history_are_listed_newest_first() -> None:
    with Hub() as hub:
        for name in ("a", "b", "c", "a"):
            hub.send_process_output(name, "line")
        assert hub.wait_for_room("process:a", 5)
        app = page_app(hub)
        names = ["process:a", "process:c", "process:b"]
        assert channels(app) == {"channels": names, "total": 3, "statuses": {}}
        found = {"channels": ["process:b"], "total": 1, "statuses": {}}
        assert channels(app, "search=b") == found


def test_the_channels_are_listed_with_the_status_of_their_programs() -> None:
    with Hub() as hub:
        hub.send_event("x", channel="process:events")
        hub.send_process_output("writer", "its first message is no status")
        for name in ("quiet", "prints", "ends", "again", "dies"):
            hub.send_process_status(name, "running")
        hub.send_process_output("prints", "line")
        hub.send_process_status("ends", "exited", 0)
        hub.send_process_status("again", "exited", 1)
        hub.send_process_status("again", "running")
        hub.send_process_status("dies", "exited", -9, extra={"signal": "SIGKILL"})
        for _ in range(10_001):  # its status is no longer kept
            hub.send_process_output("prints", "line")
        assert hub.wait_for_room("process:prints", 5)
        running = {"status": "running"}
        assert channels(page_app(hub))["statuses"] == {
            "process:quiet": running,
            "process:prints": running,
            "process:ends": {"status": "exited", "exitCode": 0},
            "process:again": running,
            "process:dies": {"status": "exited", "exitCode": -9, "signal": "SIGKILL"},
        }
        tag = get(page_app(hub), "/api/channels")[1]["ETag"]
        hub.send_process_status("quiet", "failed", extra={"error": "none"})
        assert hub.wait_for_room("process:quiet", 5)
        status, _, _ = get(page_app(hub), "/api/channels", HTTP_IF_NONE_MATCH=tag)
        assert status == "200 OK"


def test_fault_128_names_with_subscribers_are_not_listed() -> None:
    with Hub() as hub:
        listener = hub.listen("process:made-up", lambda message: None)
        assert channels(page_app(hub)) == {"channels": [], "total": 0, "statuses": {}}
        listener.close()


@pytest.mark.slow
def test_fault_128_twenty_thousand_channels_are_listed_in_pages() -> None:
    with Hub() as hub:
        for number in range(20_000):
            hub.send_process_output(str(number), "x")
        assert hub.wait_for_room("process:0", 10)
        app = page_app(hub)
        found = channels(app)
        assert len(found["channels"]) == 200 and found["total"] == len(hub.kept_channels())
        assert found["channels"][0] == "process:19999"
        assert channels(app, "offset=200&limit=3")["channels"] == [
            f"process:{number}" for number in (19_799, 19_798, 19_797)
        ]
        assert len(channels(app, "limit=999999999")["channels"]) == 1000
        assert channels(app, "limit=-1&offset=x") == found  # what is no number does not count


def test_fault_128_a_page_that_asks_again_is_told_that_nothing_has_changed() -> None:
    with Hub() as hub:
        app = page_app(hub)
        status, headers, _ = get(app, "/api/channels")
        assert (status, headers["Cache-Control"]) == ("200 OK", "no-cache")
        for known in headers["ETag"], f"W/{headers['ETag']}":
            again = get(app, "/api/channels", HTTP_IF_NONE_MATCH=known)
            assert (again[0], again[2]) == ("304 Not Modified", b"")
        hub.send_process_output("b", "x")
        assert hub.wait_for_room("process:b", 5)
        assert get(app, "/api/channels", HTTP_IF_NONE_MATCH=headers["ETag"])[0] == "200 OK"


def test_lists_of_channels_that_were_sent_are_not_kept() -> None:
    with Hub() as hub:
        app = page_app(hub)
        names = [f"process:{'x' * 120}{number}" for number in range(1000)]
        for name in names:
            hub.send_process_output(name.removeprefix("process:"), "x")
        assert hub.wait_for_room(names[-1], 10)
        get(app, "/api/channels", QUERY_STRING="limit=1000")
        tracemalloc.start()
        try:
            for limit in range(970, 1000):
                get(app, "/api/channels", QUERY_STRING=f"limit={limit}")
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < 2_000_000  # one is of 130,000


# --- pages of other origins ----------------------------------------------------------------

PAGE = "http://127.0.0.1:3000"
SCRIPTS = [
    "/ws_hub.js",
    "/ws_hub_shared.js",
    "/ws_hub_state.js",
    "/ws_hub_requests.js",
    "/ws_hub_presence.js",
    "/ws_hub_log.js",
    "/static/ws_hub_log.js",
]
ALLOW = "Access-Control-Allow-Origin"


@pytest.mark.parametrize("path", SCRIPTS)
@pytest.mark.parametrize(
    "settings",
    [
        {"allowed_origins": [PAGE]},
        {"allowed_origins": ["*"]},
        {"check_origin": lambda environ: environ["HTTP_ORIGIN"] == PAGE},
    ],
)
def test_a_page_that_may_connect_may_load_the_scripts(path: str, settings: dict[str, Any]) -> None:
    app = page_app(Hub(HubConfig(**settings)))
    _, headers, _ = get(app, path, HTTP_ORIGIN=PAGE, HTTP_HOST="127.0.0.1:5000")
    assert (headers[ALLOW], headers["Vary"]) == (PAGE, "Origin")
    tag = headers.get("ETag", "")
    again, headers, _ = get(app, path, HTTP_ORIGIN=PAGE, HTTP_IF_NONE_MATCH=tag)
    assert headers[ALLOW] == PAGE, again


@pytest.mark.parametrize("path", SCRIPTS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"allowed_origins": ["http://127.0.0.1:4000"]}, {"check_origin": lambda environ: False}],
)
def test_a_page_that_may_not_connect_may_not_load_the_scripts(
    path: str, settings: dict[str, Any]
) -> None:
    app = page_app(Hub(HubConfig(**settings)))
    _, headers, _ = get(app, path, HTTP_ORIGIN=PAGE, HTTP_HOST="127.0.0.1:5000")
    assert ALLOW not in headers and headers["Vary"] == "Origin"


def test_a_page_that_may_not_load_the_scripts_is_named_once_with_what_to_set() -> None:
    # In a process of its own: what is said once in a process may be said already in this one.
    program = """
from tests.unit.test_viewer import PAGE, SCRIPTS, Hub, get, page_app
app = page_app(Hub())
for path in (*SCRIPTS, *SCRIPTS):
    get(app, path, HTTP_ORIGIN=PAGE, HTTP_HOST="127.0.0.1:3000")  # its own
    get(app, path, HTTP_ORIGIN=PAGE, HTTP_HOST="127.0.0.1:5000")
    get(app, path, HTTP_ORIGIN="null", HTTP_HOST="127.0.0.1:5000")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    told, file = done.stderr.splitlines()
    assert f"a page of the origin '{PAGE}' loads a script of '127.0.0.1:5000'" in told
    assert "a page of the origin 'null' loads a script" in file
    assert "opened as a file" in file and "allowed_origins" not in file
    assert "allowed_origins" in told and "WS_HUB_ALLOWED_ORIGINS" in told


def test_the_page_and_the_list_of_channels_are_for_no_other_page() -> None:
    app = page_app(Hub(HubConfig(allowed_origins=["*"])))
    for path in ("/", "/api/channels"):
        assert ALLOW not in get(app, path, HTTP_ORIGIN=PAGE)[1]
