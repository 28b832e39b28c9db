"""Endpoints: paths without what differs from one resource to the next."""

import re
from functools import lru_cache
from typing import Final

#: Characters of an endpoint: a path that is longer is an attack more often than an address.
LONGEST: Final = 200

# Hex from 16 characters on: a shorter one may be a word.
_ID: Final = re.compile(
    r"(?<=/)(?:"
    r"\d+"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|[0-7][0-9a-hjkmnp-tv-z]{25}"
    r"|[0-9a-f]{16,}"
    r")(?=/|$|\.[a-z]+$)",
    re.IGNORECASE,
)
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)


def endpoint(path: str) -> str:
    """The path without origin and query, with `{id}` for numbers, UUIDs, ULIDs and long hex."""
    if not path.startswith("/"):
        path = _ORIGIN.sub("", path, count=1)
    bare = path.partition("?")[0].partition("#")[0] or "/"
    return _collapsed(bare[: 2 * LONGEST])


@lru_cache(maxsize=4096)
def _collapsed(path: str) -> str:
    return _ID.sub("{id}", path)[:LONGEST]
