"""drf-spectacular: protected operations say in the OpenAPI schema what they ask for and answer.

Nothing has to be set up: the application imports this where drf_spectacular is an installed app,
and importing registers the extensions. What a project says itself, by `@extend_schema` or a schema
class of its own, stands.
"""

from idempotency.contrib.spectacular import lookups, views

__all__ = ["lookups", "views"]
