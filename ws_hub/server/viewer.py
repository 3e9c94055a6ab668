"""The viewer's page and its files, as a WSGI application.

The files of `static/` are read once in a process and served from memory by exact name, so that
no path can lead outside.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import html
import json
import re
import string
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any, Never
from urllib.parse import parse_qs, quote

from ..access.authenticators import is_permitted
from ..errors import ConfigError, excerpt
from ..hub.hub import Hub
from ..origin import advice, is_allowed, is_of_file, parse_origin
from ..protocol.names import ATTEMPTS_PREFIX, channel_rule, check_channel
from ..validation import check_named
from ..wsgi.app import check_hub, check_path
from ..wsgi.servers import log_once
from .logs import LogPages
from .modules import join_modules

__all__ = ["CLIENT", "other_pages", "page_app", "script_app"]

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Headers = list[tuple[str, str]]

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "ico": "image/svg+xml",  # browsers request /favicon.ico and accept any image type
    "js": "text/javascript; charset=utf-8",
    "json": "application/json; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_SOURCE = re.compile(r"https?://[^/?#@{}\\\s]+[/?#]\S*\{file\}", re.IGNORECASE)
_PAGE = "index.html"
_CLIENT = "../ws_hub.js"  # as the modules of `static/` import it
_FOR_EVER = "public, max-age=31536000, immutable"
_PAGE_NAMES, _MOST_NAMES = 200, 1000  # channels in one response: by default, and at most
_SCRIPT, _STYLE = "page.js", "viewer.css"  # of the page; the script is viewer.js with its modules
_ELEMENT = "ws_hub_log.js"  # with its modules; answered at the root by the way to it
_TEXTS = ("css", "js", "svg")  # kinds of files that are compressed
CLIENT = (
    "ws_hub.js",
    "ws_hub_shared.js",
    "ws_hub_state.js",
    "ws_hub_presence.js",
    "ws_hub_requests.js",
)  # at the root, because applications use it too

# Scripts and styles from our own files only, whatever a log line contains. `'self'`
# includes ws:// and wss:// to the same host.
_SECURITY: Headers = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]


def page_app(
    hub: Hub,
    *_unnamed: Never,
    ws_path: str = "/ws",
    channel: str = "",
    fallback: Application | None = None,
    source_url: str = "",
    source_root: str = "",
) -> Application:
    """Return a WSGI application that serves the viewer's page for a hub.

    It answers `/` (the page), `/static/...`, `/ws_hub.js` and what may be loaded beside it (the
    browser client, which other pages may use too), `/ws_hub_log.js` (an element that shows a log
    on any page) and `/api/channels`: the channels with history, newest first, 200 of them unless
    `limit`, `offset` and `search` ask for others. A hub with an authenticator or a
    channel_authoriser does not list its channels (403). The WebSocket itself is served by
    `middleware`.

    Args:
        hub: the hub whose channels are listed.
        ws_path: the path of its WebSocket, relative to this application's.
        channel: the channel that the page shows when its address names none; "" for a
            page with a list of the channels.
        fallback: answers all other paths; None for 404.
        source_url: where the page links a place in a file to, such as `src/a.c:12`:
            "https://github.com/o/r/blob/main/{file}#L{line}", with `{column}` as well; "" for
            no such links.
        source_root: the folder on the programs' machine that `{file}` begins below:
            "/home/ci/r". Without it only relative paths are linked.

    Raises TypeError for a hub that is none and a channel or a folder that is not a str,
    InvalidName for a bad name, ConfigError for a `source_url` that is no http or https address
    with `{file}` behind its host.

    Threads: any.
    """
    check_named(_unnamed, 'page_app(hub, ws_path="/ws")')
    check_hub("page_app(hub)", hub)
    if not isinstance(channel, str):  # an unset variable must not show the list of all
        raise TypeError(f'channel must be the name of a channel, or "", not {excerpt(channel)}')
    if channel:
        check_channel(channel, channel_rule(hub.config.channel_name))
    if source_url != "":
        _check_source(source_url)
    if not isinstance(source_root, str):
        raise TypeError(f'source_root must be a folder, or "", not {excerpt(source_root)}')
    shown = {"channel": channel, "source_url": source_url, "source_root": source_root}
    return _Page(hub, ws_path, shown, fallback)


def script_app(
    hub: Hub, *_unnamed: Never, folder: str = "/", fallback: Application | None = None
) -> Application:
    """Return a WSGI application that serves the browser client, for pages of your own.

    It answers `/ws_hub.js`, what may be loaded beside it, and `/ws_hub_log.js` with its parts in
    `/ws_hub/`: `middleware(script_app(hub, fallback=app), hub)`. Pages of other origins may load
    the scripts that may connect to the hub.

    Args:
        hub: the hub that the pages connect to.
        folder: where the files are, below this application: "/" or "/js/".
        fallback: answers all other paths; None for 404.

    Raises TypeError for a hub that is none, ConfigError for a folder that is no path.

    Threads: any.
    """
    check_named(_unnamed, "script_app(hub, fallback=app)")
    check_hub("script_app(hub)", hub)
    check_path("folder", folder)
    folder = folder.rstrip("/") + "/"
    scripts = {name: body for name, body in _read_static().items() if name.endswith(".js")}
    files = _Files(hub, _placed(scripts, folder, f"{folder}ws_hub/"))

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path in files:
            return _read_only(files, environ, start_response)
        if path == f"{folder}{_ELEMENT}":
            return _to_element(hub, f"./ws_hub/{_ELEMENT}", environ, start_response)
        return _elsewhere(fallback, environ, start_response)

    return application


class _Files:
    """An application for files in memory, by their paths."""

    def __init__(self, hub: Hub, files: dict[str, bytes]) -> None:
        self._hub = hub
        self._files = files
        self._versions = {path: _version(body) for path, body in files.items()}

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        body, kind = self._files[path], path.rpartition(".")[2]
        version = self._versions[path]
        packed = kind in _TEXTS and _takes_gzip(environ)
        tag = f'"{version}-gz"' if packed else f'"{version}"'
        # Revalidated each time, and sent again only when another version runs; but what names its
        # version is kept.
        kept = environ.get("QUERY_STRING", "") == f"v={version}"
        headers = [("Cache-Control", _FOR_EVER if kept else "no-cache"), ("ETag", tag)]
        if kind in _TEXTS:
            headers.append(("Vary", "Accept-Encoding"))
        if kind == "js":
            headers += other_pages(self._hub, environ)
        if _has(environ, tag):
            start_response("304 Not Modified", headers + _SECURITY)
            return []
        if packed:
            body = _compressed(body)
            headers.append(("Content-Encoding", "gzip"))
        return _answer(environ, start_response, "200 OK", kind, body, *headers)


class _Page:
    """The application: files in memory, the page filled in, the list of channels."""

    def __init__(
        self, hub: Hub, ws_path: str, shown: dict[str, str], fallback: Application | None
    ) -> None:
        self._hub = hub
        shown = {"ws": "./" + ws_path.lstrip("/"), **shown}
        self._shown = {name: html.escape(value) for name, value in shown.items()}
        # Else no client may control a program, and the page need not ask.
        self._shown["control"] = "" if hub.config.input_authoriser is None else " data-control"
        self._fallback = fallback
        files = {**_read_static()}
        self._template = string.Template(files.pop(_PAGE).decode())
        for name in _SCRIPT, _STYLE, "ws_hub.js":
            self._shown[name.replace(".", "_")] = f"{name}?v={_version(files[name])}"
        paths = _placed(files, "/", "/static/")
        paths["/favicon.ico"] = files["icon.svg"]
        self._files = _Files(hub, paths)
        self._logs = LogPages(hub, other_pages)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        answer = self._route(path)
        if answer is None:
            if path == "" and environ.get("SCRIPT_NAME"):
                return self._to_slash(environ, start_response)
            return _elsewhere(self._fallback, environ, start_response)
        return _read_only(answer, environ, start_response)

    def _route(self, path: str) -> Application | None:
        if path == "/":
            return self._page
        if path == "/api/channels":
            return self._channels
        if self._logs.takes(path):
            return self._logs
        if path == f"/{_ELEMENT}":
            return self._element
        return self._files if path in self._files else None

    def _page(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # All URLs are relative to the page's: a proxy may have removed a prefix that is not
        # known here.
        body = self._template.substitute(self._shown)
        return _answer(environ, start_response, "200 OK", "html", body.encode())

    def _channels(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        config = self._hub.config
        if config.authenticator is not None or config.channel_authoriser is not None:
            # Names are information too, and this request is not authenticated (FAULTS 56).
            text = b"The channels of this hub are not listed\n"
            return _answer(environ, start_response, "403 Forbidden", "txt", text)
        query = parse_qs(environ.get("QUERY_STRING", ""))
        # Channels with history only: a client may subscribe to any name, and every page
        # would show it (FAULTS 128).
        found_names = self._hub.kept_channels()
        names = [name for name in found_names if not name.startswith(ATTEMPTS_PREFIX)]
        wanted = query.get("search", [""])[0]
        if wanted:
            names = [name for name in names if wanted in name]
        first, most = _number(query, "offset", 0), _number(query, "limit", _PAGE_NAMES)
        page = names[::-1][first : first + min(most, _MOST_NAMES)]  # newest first
        found = {"channels": page, "total": len(names), "statuses": self._hub.statuses(page)}
        body = json.dumps(found, separators=(",", ":")).encode()
        tag = f'"{_version(body)}"'
        headers = [("ETag", tag), ("Cache-Control", "no-cache")]
        if _has(environ, tag):  # nothing has changed since
            start_response("304 Not Modified", headers + _SECURITY)
            return []
        return _answer(environ, start_response, "200 OK", "json", body, *headers)

    def _to_slash(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        query = environ.get("QUERY_STRING", "")
        name = environ["SCRIPT_NAME"].rpartition("/")[2]
        # Relative as well: only the browser knows the URL before the last segment.
        place = f"./{quote(name, encoding='latin-1')}/" + (f"?{query}" if query else "")
        return _redirect(environ, start_response, place)

    def _element(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        return _to_element(self._hub, f"./static/{_ELEMENT}", environ, start_response)


def _check_source(template: object) -> None:
    # A name before the host makes it look like another, and what stands for {file} is a program's.
    if not isinstance(template, str) or not _SOURCE.match(template):
        raise ConfigError(
            "source_url must be an http or https address with {file} behind its host, such as "
            f'"https://example.com/{{file}}#L{{line}}", not {excerpt(template)}'
        )


def _elsewhere(
    fallback: Application | None, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    if fallback is not None:
        return fallback(environ, start_response)
    return _answer(environ, start_response, "404 Not Found", "txt", b"Not found\n")


def _read_only(
    application: Application, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    """Return the application's answer to a GET or HEAD, 405 to all else."""
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return application(environ, start_response)
    allow = ("Allow", "GET, HEAD")
    text = b"This address is for reading\n"
    return _answer(environ, start_response, "405 Method Not Allowed", "txt", text, allow)


def _to_element(
    hub: Hub, place: str, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    # What a module imports is relative to where it was found in the end.
    return _redirect(environ, start_response, place, *other_pages(hub, environ))


def _redirect(
    environ: Environ, start_response: StartResponse, place: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    status, text = "308 Permanent Redirect", b"It is one step further\n"
    return _answer(environ, start_response, status, "txt", text, ("Location", place), *headers)


def other_pages(hub: Hub, environ: Environ) -> Headers:
    """Return the headers of a script that let a page of another origin load it, or none.

    Those pages may that may connect, since without them a browser refuses the script (CORS)
    and says so to nobody but its console.

    Threads: any; runs `check_origin`.
    """
    headers, origin, config = [("Vary", "Origin")], environ.get("HTTP_ORIGIN"), hub.config
    if origin is None:  # a page of this server, or no browser
        return headers
    if config.check_origin is None:
        allowed = is_allowed(origin, config.allowed_origins)
    else:
        allowed = is_permitted("check_origin", config.check_origin, environ)
    host = environ.get("HTTP_HOST", "")
    if allowed:
        headers.append(("Access-Control-Allow-Origin", origin))
    elif parse_origin(origin) != parse_origin(f"{origin.partition('://')[0]}://{host}"):
        file = is_of_file(origin)
        log_once(
            "script of a file" if file else "script",
            f"a page of the origin {excerpt(origin)} loads a script of {excerpt(host)}, which "
            f"its browser refuses: it may not connect either. {advice(origin)}"
            + ("" if file else ", or load the script from where the page is"),
            each="" if file else origin,
        )
    return headers


def _placed(files: Mapping[str, bytes], client: str, others: str) -> dict[str, bytes]:
    """Return files by their paths: those of the client in one folder, the others in another."""
    return {f"{client if name in CLIENT else others}{name}": body for name, body in files.items()}


@functools.cache
def _read_static() -> Mapping[str, bytes]:
    """Return the files of `static/` with a known type, by name; read once in a process.

    The page's script and the element have the modules in them that they import, so that a browser
    asks for one file, and not for each of some twenty.
    """
    folder = resources.files("ws_hub").joinpath("static")
    files = {
        each.name: each.read_bytes()
        for each in folder.iterdir()
        if each.is_file() and each.name.rpartition(".")[2] in _TYPES
    }

    def join(first: str, client: str) -> bytes:
        return join_modules(first, lambda name: files[name].decode(), {_CLIENT: client}).encode()

    page = join("viewer.js", f"{_CLIENT}?v={_version(files['ws_hub.js'])}")
    # The element's client is the one that its page may import, too.
    return files | {_SCRIPT: page, _ELEMENT: join(_ELEMENT, _CLIENT)}


def _version(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:24]


@functools.lru_cache(64)
def _compressed(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def _takes_gzip(environ: Environ) -> bool:
    """Return whether a request's sender reads gzip; also where it would rather have another."""
    takes = {}
    for each in environ.get("HTTP_ACCEPT_ENCODING", "").lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        takes[name] = not any(re.fullmatch(r"q=0(\.0*)?", part) for part in parameters)
    return takes.get("gzip", takes.get("*", False))  # "*" are those that are not named


def _has(environ: Environ, tag: str) -> bool:
    """Return whether a request's sender has what a tag names; a proxy may have made that weak."""
    return tag in re.findall(r'"[^"]*"', environ.get("HTTP_IF_NONE_MATCH", ""))


def _number(query: dict[str, list[str]], name: str, default: int) -> int:
    """Return a query parameter as a number; the default unless it is one."""
    text = query.get(name, [""])[0]
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else default


def _answer(
    environ: Environ,
    start_response: StartResponse,
    status: str,
    kind: str,
    body: bytes,
    *headers: tuple[str, str],
) -> Iterable[bytes]:
    own = [("Content-Type", _TYPES[kind]), ("Content-Length", str(len(body)))]
    start_response(status, [*own, *headers, *_SECURITY])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
