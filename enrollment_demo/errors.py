"""How a refusal looks."""

from typing import Any

from django.http import HttpRequest, JsonResponse
from rest_framework.exceptions import APIException, NotFound
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from idempotency.exceptions import IdempotencyError


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's own, with the error's code beside its detail: clients act on codes, not on prose."""
    response = drf_exception_handler(exc, context)
    if response is None or not isinstance(exc, APIException):
        return response
    # The mixin's refusals have their code in problem details, which it only makes of a plain body.
    if isinstance(exc.detail, str) and not isinstance(exc, IdempotencyError):
        response.data["code"] = exc.detail.code
    return response


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Django's own, for paths that no view has, as DRF would put it."""
    refusal = {"detail": NotFound.default_detail, "code": NotFound.default_code}
    return JsonResponse(refusal, status=NotFound.status_code)
