"""From the names of logs to the figures."""

from collections.abc import Callable, Sequence

from idempotency.audit.duplicates import Window
from idempotency.audit.endpoints import endpoint
from idempotency.audit.logs import Log, in_order
from idempotency.audit.sources import Source, SourceError
from idempotency.audit.summary import Summary


def survey(
    names: Sequence[str],
    *,
    methods: Sequence[str],
    window: float,
    progress: Callable[[int, int], None] = lambda lines, size: None,
) -> Summary:
    """Read the logs, and count the requests that repeat another within `window` seconds.

    `progress` is told of each few thousand lines, and their bytes. Raises SourceError where a log
    cannot be read, before the first one is, as far as that can be seen then.
    """
    sources = [Source(name) for name in names]
    known: dict[tuple[int, int], str] = {}
    for source in sources:
        source.check()
        if other := known.get(source.identity):
            raise SourceError(f"{other} and {source.name} are the same log: name it once.")
        known[source.identity] = source.name
    logs = tuple(Log(source, frozenset(methods)) for source in sources)
    found = Summary(tuple(methods), window, logs)
    following = Window(window, found.add)
    for request in in_order(logs, progress):
        where = f"{request.method} {endpoint(request.path)}"
        found.count(request, where)
        following.add(request, where)
    following.close()
    found.given_up, found.jumps = following.given_up, following.jumps
    if not found.lines:
        raise SourceError(f"{', '.join(names)}: there is no line to read.")
    return found
