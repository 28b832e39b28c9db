"""The database server's clock in ORM queries: no lease or retention trusts an app host's."""

from datetime import timedelta
from typing import Any

from django.db.models import DateTimeField, DurationField, Func, Value
from django.db.models.expressions import Combinable


class ServerNow(Func):
    """The moment a statement began, in UTC. Django's `Now` is in the session's zone on MySQL."""

    template = "statement_timestamp()"
    output_field = DateTimeField()

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="utc_timestamp(6)", **extra)

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "strftime('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f', 'now')"
        return self.as_sql(compiler, connection, template=template, **extra)


def after(seconds: float) -> Combinable:
    """So many seconds from now."""
    return ServerNow() + Value(timedelta(seconds=seconds), output_field=DurationField())
