"""A Django site whose views and threads push to every open browser.

python examples/django_app.py runserver
gunicorn --worker-class gthread --threads 4 --chdir examples django_app:application
"""

from __future__ import annotations

import json
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from ws_hub import Hub, middleware

settings.configure(
    ROOT_URLCONF=__name__,
    WSGI_APPLICATION=f"{__name__}.application",  # runserver uses it as well
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    DEBUG=True,
)
hub = Hub()


@csrf_exempt
def say(request: HttpRequest) -> JsonResponse:
    hub.send_event("said", json.loads(request.body))
    return JsonResponse({"listening": hub.client_count()})


urlpatterns = [path("say", say)]
application = middleware(get_wsgi_application(), hub, start=True)

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
