"""The times of access logs, as seconds since 1970."""

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Final

#: The first second of the year 10000: what a date cannot be.
_END: Final = 253_402_300_800.0
#: Seconds since 1970 stay below this for 3,000 years; milliseconds have been above it since 1973.
_SECONDS_BELOW: Final = 1e11
_MONTHS: Final = dict(
    zip(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
        range(1, 13),
        strict=True,
    )
)
_LOCAL: Final = re.compile(r"\[?(\d\d/\w{3}/\d{4}:\d\d:\d\d):(\d\d(?:\.\d+)?) ([+-]\d{4})\]?")
_NUMBER: Final = re.compile(r"\d+(?:\.\d*)?")


@lru_cache(maxsize=256)
def minute(text: str, zone: str) -> float:
    """Seconds since 1970 at the start of a minute, `10/Oct/2025:13:55` in `+0200`.

    Remembers the latest ones, as a log has many lines a minute. Raises ValueError.
    """
    month = _MONTHS.get(text[3:6])
    if month is None:
        raise ValueError(f"{text[3:6]!r} is no month")
    offset = timedelta(hours=int(zone[:3]), minutes=int(zone[0] + zone[3:]))
    at = datetime(
        int(text[7:11]),
        month,
        int(text[:2]),
        int(text[12:14]),
        int(text[15:17]),
        tzinfo=timezone(offset),
    )
    return at.timestamp()


def moment(value: object) -> float:
    """Seconds since 1970 of what a JSON line holds as its time. Raises ValueError.

    That is a number of seconds, or of milliseconds and below; ISO 8601, in UTC where it names no
    zone; or the time of the combined format. A number may be in a string.
    """
    if isinstance(value, str):
        if local := _LOCAL.fullmatch(value):
            return minute(local[1], local[3]) + float(local[2])
        if not _NUMBER.fullmatch(value):
            at = datetime.fromisoformat(value)
            return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30:
        raise ValueError(f"{value!r} is no time")
    seconds = float(value)
    while seconds > _SECONDS_BELOW:
        seconds /= 1000
    return seconds


def told(seconds: float) -> str:
    """The moment in ISO 8601, to the second."""
    known = min(max(seconds, 0.0), _END - 1)
    return datetime.fromtimestamp(known, UTC).isoformat(timespec="seconds")
