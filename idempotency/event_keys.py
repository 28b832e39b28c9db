"""An event's key, read from the arguments of the call that delivers it."""

import inspect
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

from idempotency.keys import format_key
from idempotency.policy import Terms

#: A dotted path into the arguments, or what is called with them and gives the key.
KeySource = str | Callable[..., str | int]


def key_reader(
    operation: str, source: KeySource, function: Callable[..., Any]
) -> Callable[[tuple[Any, ...], dict[str, Any]], object]:
    """Gives what reads the key out of a call of `function`.

    Raises ValueError for a path that does not begin with a parameter, TypeError for what is no
    source. What it gives raises ValueError where the path leads nowhere, and Python's own
    TypeError for arguments that do not fit.
    """
    if callable(source):
        return lambda args, kwargs: source(*args, **kwargs)
    if not isinstance(source, str):
        raise TypeError(f"once({operation!r}): key is a dotted path or callable, not {source!r}.")
    parameter, *steps = source.split(".")
    signature = inspect.signature(function)
    if parameter not in signature.parameters or not all(steps):
        raise ValueError(
            f"once({operation!r}): key={source!r} is no dotted path that begins with a parameter of"
            f" {function!r}; these are: {', '.join(signature.parameters) or 'none'}."
        )

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            return reduce(_step, steps, bound.arguments[parameter])
        except (LookupError, AttributeError) as error:
            raise ValueError(f"once({operation!r}): no key at {source!r}: {error}.") from None

    return read


def checked_key(operation: str, key: object, terms: Terms) -> str:
    """The key as text. Raises ValueError where it is unusable, and never quotes it."""
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise ValueError(
            f"once({operation!r}): the key is neither text nor an int, but {type(key).__name__}."
        )
    try:
        # Not str(): a subclass, an enumeration for instance, may show itself as something else.
        text = str.__str__(key) if isinstance(key, str) else int.__repr__(key)
        format_key(text)
    except ValueError as error:
        raise ValueError(f"once({operation!r}): {error}") from None
    if not terms.accepts(text):
        raise ValueError(f"once({operation!r}): the key is not of the policy's key_format.")
    return text


def _step(value: Any, name: str) -> Any:
    """Where `name` leads from here. Raises LookupError or AttributeError where it leads nowhere."""
    if isinstance(value, Mapping):
        if name not in value:  # a defaultdict would make one up
            raise LookupError(f"a mapping holds no {name!r}")
        return value[name]
    if isinstance(value, list | tuple) and name.isascii() and name.isdecimal():
        return value[int(name)]
    return getattr(value, name)
