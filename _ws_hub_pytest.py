"""The pytest plugin of ws_hub: the fixtures hub_config, hub, hub_server and hub_client.

pytest imports it at the start of every run in an environment that has ws_hub installed, also
of projects that do not use it, and before coverage is measured. So it stands outside the
package, whose import would run all of it, and imports that where a fixture is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ws_hub import Hub, HubConfig, Server
    from ws_hub.testing import AppServer, HubClient

__all__ = ["hub", "hub_client", "hub_config", "hub_server"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, for projects with --strict-markers."""
    config.addinivalue_line(
        "markers", "hub_config(**settings): settings of HubConfig for the hub of this test."
    )


@pytest.fixture
def hub_config(request: pytest.FixtureRequest) -> HubConfig:
    """The settings of the test's hub: those of its `hub_config` markers, the nearest wins."""
    from ws_hub import HubConfig

    settings: dict[str, Any] = {}
    for marker in request.node.iter_markers("hub_config"):  # the nearest first
        if marker.args:
            pytest.fail("the marker hub_config takes settings by name", pytrace=False)
        settings = {**marker.kwargs, **settings}
    return HubConfig(**settings)


@pytest.fixture
def hub(hub_config: HubConfig) -> Iterator[Hub]:
    """A hub that runs, and is stopped after the test."""
    from ws_hub import Hub

    with Hub(hub_config) as hub:
        yield hub


@pytest.fixture
def hub_server(hub: Hub) -> Iterator[Server]:
    """The hub, served on a free port of this machine: `hub_server.url`."""
    from ws_hub import serve

    with serve(hub) as server:
        yield server


@pytest.fixture
def hub_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., HubClient]]:
    """A function that connects a HubClient, which is closed after the test.

    `hub_client()` connects to `hub_server`, `hub_client(url)` to a server of your own,
    `hub_client(app, path="/ws")` to a Flask or WSGI application, which it serves. Further
    arguments are those of HubClient.
    """
    from ws_hub.testing import AppServer, HubClient

    servers: dict[tuple[int, str], AppServer] = {}

    def connect(target: Any = None, *, path: str = "/ws", **settings: Any) -> HubClient:
        if target is None:
            # Not an argument of the fixture: a test of an application needs no second hub.
            target = request.getfixturevalue("hub_server").url
            request.node.addfinalizer(stack.close)  # before the end of the server, made just now
        elif callable(target):
            key = id(target), path
            if key not in servers:
                servers[key] = stack.enter_context(AppServer(target, path))
            target = servers[key].url
        return stack.enter_context(HubClient(target, **settings))

    with contextlib.ExitStack() as stack:
        yield connect
