"""A stored reply, made readable: status, headers, and the body as JSON, text or bytes."""

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from django.utils.http import parse_header_parameters

from idempotency.layers import look
from idempotency.models import IdempotencyRecord
from idempotency.outcomes import Identity, StoredReply

#: Characters of a body on the page: some screens of it.
SHOWN_TEXT: Final = 20_000
#: Bytes of a body that is no text: enough to tell what it is.
SHOWN_BYTES: Final = 256
#: Bytes of JSON that are still indented; doing so takes a second for each ten megabytes.
INDENTED: Final = 200_000

_BYTES_OF_A_LINE: Final = 16


@dataclass(frozen=True)
class ShownReply:
    """A stored reply as its page shows it."""

    status: int
    #: The status in words, where it has some.
    reason: str
    headers: tuple[tuple[str, str], ...]
    #: "json", "text" or "bytes".
    kind: str
    #: The body, or its beginning; of bytes, as hexadecimal digits.
    text: str
    #: Bytes of the whole body.
    size: int
    is_cut: bool


def stored_reply(record: IdempotencyRecord) -> ShownReply | None:
    """What a retry of a record's request would get; `None` where it gets no stored reply."""
    identity = Identity(record.scope, record.key, str(record._state.db))
    outcome = look.outcome(identity, with_reply=True)
    return None if outcome is None or outcome.reply is None else _shown(outcome.reply)


def _shown(reply: StoredReply) -> ShownReply:
    body = reply.body or b""
    named = {name.lower(): value for name, value in reply.headers}
    kind, text = _readable(body, named.get("content-type", ""))
    limit = len(text) if kind == "bytes" else SHOWN_TEXT
    is_cut = len(body) > SHOWN_BYTES if kind == "bytes" else len(text) > SHOWN_TEXT
    reasons = {each.value: each.phrase for each in HTTPStatus}
    return ShownReply(
        status=reply.status,
        reason=reasons.get(reply.status, ""),
        headers=reply.headers,
        kind=kind,
        text=text[:limit],
        size=len(body),
        is_cut=is_cut,
    )


def _readable(body: bytes, content_type: str) -> tuple[str, str]:
    try:
        media_type, parameters = parse_header_parameters(content_type)
        text = body.decode(parameters.get("charset", "utf-8"))
    except (LookupError, ValueError):  # no such charset; not of that charset, or no header
        return "bytes", _hexadecimal(body[:SHOWN_BYTES])
    if "\0" in text:
        return "bytes", _hexadecimal(body[:SHOWN_BYTES])
    is_json = media_type == "application/json" or media_type.endswith("+json")
    if is_json and len(body) <= INDENTED:
        try:
            indented = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
            # Half of a surrogate pair, which JSON can spell and UTF-8 cannot, stays spelt out.
            return "json", indented.encode(errors="backslashreplace").decode()
        except (ValueError, RecursionError):  # it says so, and is none; or is too deep
            return "text", text
    return "text", text


def _hexadecimal(body: bytes) -> str:
    starts = range(0, len(body), _BYTES_OF_A_LINE)
    return "\n".join(body[at : at + _BYTES_OF_A_LINE].hex(" ") for at in starts)
