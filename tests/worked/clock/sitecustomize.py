"""Imported by Python itself, before any other code has taken hold of `time` and `datetime`."""

import copyreg
import datetime
import os
import time
from typing import Any

AHEAD = float(os.environ["TEST_CLOCK_AHEAD"])
TRUE = datetime.datetime

_time, _time_ns = time.time, time.time_ns


class _Alias(type):
    """A class that passes for the true one in tables by class, in checks, and as a base."""

    def __new__(cls, name: str, bases: tuple[type, ...], names: dict[str, Any]) -> Any:
        if bases[0] is TRUE:
            return super().__new__(cls, name, bases, names)
        return type(name, tuple(TRUE if base == TRUE else base for base in bases), names)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is TRUE

    def __hash__(cls) -> int:
        return hash(TRUE)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, TRUE)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, TRUE)


class _Datetime(TRUE, metaclass=_Alias):
    """`datetime` with another present; all it makes are plain datetimes."""

    __slots__ = ()  # of the true one's size, which compiled modules check

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return TRUE(*args, **kwargs)

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return TRUE.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(datetime.UTC).replace(tzinfo=None)

    @classmethod
    def today(cls) -> Any:
        return cls.now()


def _reduced(moment: datetime.datetime) -> tuple[Any, ...]:
    """For pickle, which refuses a class that is not found under its own name."""
    return _Datetime, *moment.__reduce__()[1:]


time.time = lambda: _time() + AHEAD
time.time_ns = lambda: _time_ns() + int(AHEAD * 1e9)
for _name in ("__module__", "__name__", "__qualname__"):
    setattr(_Datetime, _name, "datetime")
datetime.datetime = _Datetime  # type: ignore[misc]
copyreg.pickle(TRUE, _reduced)
