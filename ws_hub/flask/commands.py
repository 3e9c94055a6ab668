"""`flask ws-hub`: what is set and served, and what its channels say.

The hub itself runs in the process of the server. These commands read the application's config,
and listen as any client does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import click
from flask import Flask, current_app, session
from flask.cli import AppGroup
from werkzeug.exceptions import HTTPException

from ..cli.common import FAILED, say
from ..cli.tail import Tail, View, socket_url
from ..config import HubConfig
from ..errors import ConfigError
from ..hub.hub import Hub
from ..origin import origin_of
from ..reconnect.config import ReconnectConfig
from ..signals import Signals
from .session_auth import FlaskSessionAuth

__all__ = ["commands"]

commands = AppGroup("ws-hub", help="Look at the hub of this application.")


@commands.command("check")
def check() -> None:
    """Show what is served and set; exit with 1 when something cannot work."""
    app: Flask = _unwrapped(current_app)
    hub = _hub()
    for what, endpoint in (("WebSocket", "ws"), ("browser client", "js"), ("viewer", "viewer")):
        click.echo(f"{what}: {_rule(endpoint) or 'not served'}")
    for field in dataclasses.fields(HubConfig):
        value = getattr(hub.config, field.name)
        if value != field.default:
            click.echo(f"{field.name}: {value!r}")
    faults = list(_faults(app, hub))
    for fault in faults:
        click.echo(f"fault: {fault}")
    if hub.config.authenticator is None:
        click.echo("note: no authenticator: every visitor may connect")
    elif hub.config.channel_authoriser is None:
        click.echo("note: no channel_authoriser: every user may subscribe to every channel")
    if faults:
        raise click.exceptions.Exit(FAILED)


def _faults(app: Flask, hub: Hub) -> Iterator[str]:
    authenticator = hub.config.authenticator
    if isinstance(authenticator, FlaskSessionAuth) and not app.secret_key:
        yield "FlaskSessionAuth needs sessions, and the application has no secret key"
    path = _rule("ws")
    try:
        rule = path and app.url_map.bind("localhost").match(path, "GET", return_rule=True)[0]
    except HTTPException:  # no route, or none for GET
        return
    if rule and not rule.arguments:
        yield f"the route of {rule.endpoint} is never reached: the hub answers at {path}"


@commands.command("tail")
@click.option("--url", help="Of the site or the WebSocket.  [default: http://127.0.0.1:5000]")
@click.option("--user", metavar="ID", help="Connect with a session of this user.")
@click.option("--last", type=click.IntRange(0), help="Begin with so many messages that are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print whole messages, one a line.")
@click.argument("channels", nargs=-1, required=True, metavar="CHANNEL...")
def tail(
    url: str | None, user: str | None, last: int | None, as_json: bool, channels: tuple[str, ...]
) -> None:
    """Follow channels of a server that runs this application."""
    server = _server(url or "http://127.0.0.1:5000", user)
    with Signals() as signals:
        number = Tail(server, channels, last=last, view=View(as_json=as_json), tell=say).follow(
            signals
        )
    raise click.exceptions.Exit(FAILED if number is None else 128 + number)


def _server(url: str, user: str | None) -> ReconnectConfig:
    """Return how to connect to the WebSocket of a site, with a session of a user."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.path in ("", "/"):
        path = _rule("ws")
        if path is None:
            raise click.UsageError(
                "this application serves no WebSocket (WS_HUB_PATH is None): use --url with "
                "that of one"
            )
        url = f"{parts.scheme}://{parts.netloc}{path}"
    url, _ = socket_url(url)
    headers, origin = {}, None
    if user is not None:
        # As from a page of this site: a cookie without an Origin is refused.
        headers, origin = {"Cookie": _cookie(user)}, origin_of(url)
    try:
        return ReconnectConfig(url=url, headers=headers, origin=origin)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _cookie(user: str) -> str:
    """Return the cookie of a new session of a user, made as the application makes it."""
    app: Flask = _unwrapped(current_app)
    authenticator = _hub().config.authenticator
    key = authenticator.key if isinstance(authenticator, FlaskSessionAuth) else None
    if key is None and hasattr(app, "login_manager"):
        key = "_user_id"  # Flask-Login's
    if key is None or not app.secret_key:
        raise click.UsageError(
            "--user needs sessions: set app.secret_key, and use FlaskSessionAuth or Flask-Login"
        )
    with app.test_request_context():
        session[key] = user
        response = app.response_class()
        app.session_interface.save_session(app, _unwrapped(session), response)
    return response.headers["Set-Cookie"].partition(";")[0]


def _unwrapped(proxy: Any) -> Any:
    return proxy._get_current_object()


def _rule(endpoint: str) -> str | None:
    """Return the path of one of our routes; None where it is not served."""
    try:
        return next(current_app.url_map.iter_rules(f"ws_hub.{endpoint}")).rule
    except KeyError:
        return None


def _hub() -> Hub:
    extension = current_app.extensions.get("ws_hub")
    if extension is None:
        raise click.UsageError(
            "this application has no HubExtension: add HubExtension(app), and name it with --app"
        )
    hub: Hub = extension.hub
    return hub
