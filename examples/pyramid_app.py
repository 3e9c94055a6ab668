"""A Pyramid application whose views and threads push to every open browser.

gunicorn --worker-class gthread --threads 4 --chdir examples pyramid_app:application
"""

from __future__ import annotations

from pyramid.config import Configurator
from pyramid.request import Request

from ws_hub import Hub, middleware

hub = Hub()


def say(request: Request) -> dict[str, int]:
    hub.send_event("said", request.json_body)
    return {"listening": hub.client_count()}


with Configurator() as config:
    config.add_route("say", "/say", request_method="POST")
    config.add_view(say, route_name="say", renderer="json")
    application = middleware(config.make_wsgi_app(), hub, start=True)
