"""What a careful project sends with its pages."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

POLICY = "default-src 'self'"


def strict_policy(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Middleware: nothing inline runs or styles, and nothing comes from elsewhere."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        # A browser asks for one by itself, and would tell the console that there is none.
        icon = request.path == "/favicon.ico"
        response = HttpResponse(status=204) if icon else get_response(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return middleware
