"""What was found, for people and for programs."""

from typing import Any, Final

from idempotency.audit.logs import Trouble
from idempotency.audit.moments import told
from idempotency.audit.summary import Protected, Summary, Tally
from idempotency.tables import many, printable, table

_GAPS: Final = (
    ("below 1 s", 0, 1),
    ("1 to 5 s", 1, 5),
    ("5 to 30 s", 5, 30),
    ("30 to 60 s", 30, 60),
    ("more", 60, None),
)


def as_json(found: Summary, top: int) -> dict[str, Any]:
    """The figures as plain values; of endpoints and clients the first `top`."""
    total = found.total
    return {
        "sources": [log.name for log in found.logs],
        "lines": found.lines,
        "unreadable": {
            "lines": found.unreadable,
            "first": [_place(each) for log in found.logs for each in log.troubles],
            "cut_short": [_place(log.cut) for log in found.logs if log.cut],
        },
        "from": None if found.first is None else told(found.first),
        "to": None if found.last is None else told(found.last),
        "methods": list(found.methods),
        "window_seconds": found.window,
        "certain": False,
        "requests": total.requests,
        "requests_of_known_size": found.sized,
        "groups": total.groups,
        "duplicates": total.duplicates,
        "share": round(total.share, 6),
        "retried": total.retried,
        "answered_otherwise": total.answered_otherwise,
        "most_attempts": total.most_attempts,
        "endpoints": [_endpoint(each) for each in found.endpoints()[:top]],
        "gaps": [
            {"from": low, "below": high, "duplicates": duplicates, "retries": retries}
            for (_, low, high), duplicates, retries in zip(
                _GAPS, found.duplicate_gaps, found.retry_gaps, strict=True
            )
        ],
        "clients": [
            {
                "client": printable(each.name),
                "groups": each.groups,
                "duplicates": each.duplicates,
                "retried": each.retried,
                "most_attempts": each.most_attempts,
            }
            for each in found.clients()[:top]
        ],
        "left_out": {
            "requests_to_further_endpoints": found.further_requests,
            "groups_of_further_clients": found.further_chains,
            "groups_given_up": found.given_up,
            "jumps_in_time": found.jumps,
        },
    }


def as_text(found: Summary, top: int) -> str:
    """The figures as tables, and what they cannot tell."""
    methods = " and ".join(found.methods)
    parts = [
        _read(found),
        (
            f"{many(found.total.requests, f'{methods} request')}, of which"
            f" {many(found.total.duplicates, 'likely duplicate')}"
            f" ({found.total.share:.2%}): a second success within {found.window:g} s."
        ),
    ]
    if found.total.duplicates or found.total.retried:
        parts += [_endpoints(found, top), _gaps(found), _clients(found, top), _NOTES]
    parts += _limits(found)
    return "\n\n".join(parts)


_NOTES: Final = (
    "duplicates: the same client (address and user agent), method and path, and a 2xx for both.\n"
    "retried: a 499, 408, 5xx or no answer, then a 2xx; the first may have committed as well.\n"
    "saved: the share of all duplicates that protecting this endpoint and those above it saves."
)


def _read(found: Summary) -> str:
    lines = f"{many(found.lines, 'line')} of {many(len(found.logs), 'log')}"
    span = ""
    if found.first is not None and found.last is not None:
        span = f", {told(found.first)} to {told(found.last)}"
    text = f"{lines}{span}."
    if found.unreadable:
        text += f" {many(found.unreadable, 'line')} could not be read, the first of them:"
        for log in found.logs:
            text += "".join(
                f"\n  {each.source}, line {each.line}: {printable(each.reason)}"
                for each in log.troubles
            )
    for log in found.logs:
        if log.cut:
            text += (
                f"\n{log.name} breaks off after line {log.cut.line:,}"
                f" ({printable(log.cut.reason)}): what comes after it is missing here."
            )
    return text


def _endpoints(found: Summary, top: int) -> str:
    ranked = found.endpoints()
    rows = [
        (
            printable(each.tally.name),
            *_figures(each.tally),
            f"{each.cumulative_share:.1%}" if found.total.duplicates else "-",
        )
        for each in ranked[:top]
    ]
    rows.append(("all", *_figures(found.total), ""))
    headings = ("endpoint", "requests", "groups", "duplicates", "share", "retried", "saved")
    return table(headings, rows) + _further(len(ranked) - top, "endpoint")


def _figures(tally: Tally) -> tuple[str, ...]:
    counts = (tally.requests, tally.groups, tally.duplicates)
    return (*(f"{each:,}" for each in counts), f"{tally.share:.2%}", f"{tally.retried:,}")


def _gaps(found: Summary) -> str:
    return table(
        ("repeated after", "duplicates", "retries"),
        [
            (name, f"{duplicates:,}", f"{retries:,}")
            for (name, _, _), duplicates, retries in zip(
                _GAPS, found.duplicate_gaps, found.retry_gaps, strict=True
            )
        ],
    )


def _clients(found: Summary, top: int) -> str:
    ranked = found.clients()
    rows = [
        (
            printable(each.name),
            *(
                f"{count:,}"
                for count in (each.groups, each.duplicates, each.retried, each.most_attempts)
            ),
        )
        for each in ranked[:top]
    ]
    headings = ("client", "groups", "duplicates", "retried", "most attempts")
    return table(headings, rows) + _further(len(ranked) - top, "client")


def _limits(found: Summary) -> list[str]:
    """What the figures leave out or cannot know, as far as it applies."""
    always = (
        "Likely, not certain: a log has no bodies."
        " Two people behind one address look like one,"
        " and a second success may be a stored reply, or have changed nothing."
    )
    parts = [always]
    if found.sized < found.total.requests:
        parts.append(
            f"For {many(found.total.requests - found.sized, 'request')} the log tells no request"
            " size, so successes with the same status and nearly the same size of response were"
            " taken for repeats; left out, with another answer:"
            f" {found.total.answered_otherwise:,}. A JSON log with request_length tells more."
        )
    spilled = (
        (found.further_requests, "request", "to further endpoints, counted together"),
        (found.further_chains, "group", "of further clients, counted together"),
        (found.given_up, "request", "forgotten early: too many at a time"),
        (found.jumps, "jump", "back in time by more than 5 s: repeats across them are lost"),
    )
    parts += [f"{many(count, noun)} {what}." for count, noun, what in spilled if count]
    return parts


def _endpoint(protected: Protected) -> dict[str, Any]:
    tally = protected.tally
    return {
        "endpoint": printable(tally.name),
        "requests": tally.requests,
        "groups": tally.groups,
        "duplicates": tally.duplicates,
        "share": round(tally.share, 6),
        "retried": tally.retried,
        "answered_otherwise": tally.answered_otherwise,
        "most_attempts": tally.most_attempts,
        "cumulative_share": round(protected.cumulative_share, 6),
    }


def _place(trouble: Trouble) -> dict[str, Any]:
    return {
        "source": trouble.source,
        "line": trouble.line,
        "reason": printable(trouble.reason),
    }


def _further(count: int, noun: str) -> str:
    return f"\n... and {many(count, noun)} more" if count > 0 else ""
