"""What the services' operations have in common in a schema, and no serializer tells."""

from typing import Any, Final

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter

_REFUSAL: Final = {
    "type": "object",
    "properties": {"detail": {"type": "string"}, "code": {"type": "string"}},
    "required": ["detail"],
}
#: Of a body: by field, or as a refusal where it is no JSON.
_MISTAKES: Final = {"type": "object", "additionalProperties": True}


class ServiceSchema(AutoSchema):
    """Adds the filters of lists, and refusals."""

    def get_override_parameters(self) -> list[Any]:
        """A list's filters, as `RowsViewSet` has them."""
        names = getattr(self.view, "filters", ()) if self._is_list_view() else ()
        return [*super().get_override_parameters(), *(OpenApiParameter(name) for name in names)]

    def get_operation(self, *args: Any) -> dict[str, Any] | None:
        """What an operation refuses; the package adds to that what a key may be refused with."""
        operation = super().get_operation(*args)
        if operation is not None:
            for status, description in self._refusals().items():
                schema = _MISTAKES if status == 400 else _REFUSAL
                operation["responses"].setdefault(
                    str(status),
                    {
                        "description": description,
                        "content": {"application/json": {"schema": schema}},
                    },
                )
        return operation

    def _refusals(self) -> dict[int, str]:
        refusals = {401: "Who calls is not known: send a token."}
        if self.method == "GET":
            return refusals | {404: "There is no such row, or page."}
        own: dict[int, str] = getattr(self.view, "refusals", {})
        return refusals | {400: "The body or the idempotency key is wrong."} | own
