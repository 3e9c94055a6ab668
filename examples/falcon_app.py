"""A Falcon application whose resources and threads push to every open browser.

gunicorn --worker-class gthread --threads 4 --chdir examples falcon_app:application
"""

from __future__ import annotations

import falcon

from ws_hub import Hub, middleware

hub = Hub()


class Say:
    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        hub.send_event("said", request.get_media())
        response.media = {"listening": hub.client_count()}


app = falcon.App()
app.add_route("/say", Say())
application = middleware(app, hub, start=True)
