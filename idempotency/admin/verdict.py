"""What a verdict is: something that operators do to a record or a job."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.forms import Form

from idempotency.settlement import OnStale


@dataclass(frozen=True)
class Verdict:
    """Something that operators may do to a row, with a permission of its own."""

    #: In URLs.
    name: str
    permission: str
    #: On its button.
    label: Any
    #: What will come of it, for the operator who is about to confirm it.
    consequence: Any
    #: Told when it is done, with the `count` of rows.
    done: Any
    #: Whether it is for a row as it is now.
    fits: Callable[[Any], bool]
    #: Does it to a row as it was seen. False: the row has changed since, and nothing was done.
    #: Raises ValidationError where this row cannot have it, which is undone.
    carry_out: Callable[[Any, dict[str, Any], OnStale], bool]
    #: What the log says of it; given what the form was.
    logged: Callable[[dict[str, Any]], str]
    #: How it looks in the log: `CHANGE` or `DELETION`.
    flag: int
    form: type[Form] | None = None
    #: It may repeat effects, or lose something for good.
    is_dangerous: bool = False
