"""The last so many hours, and the periods that they are told in."""

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

#: Hours of a period, by the longest window that is told in such periods: at most some sixty each.
_EACH: Final = ((48, 1), (14 * 24, 6), (float("inf"), 24))


@dataclass(frozen=True, slots=True)
class Window:
    """`hours` hours, the one that is running included; its periods begin where a clock on the wall
    of `zone` says so."""

    hours: int
    #: The running hour, since the epoch.
    last: int
    zone: tzinfo

    @property
    def each(self) -> int:
        """Hours of a period. The first and the last may be shorter, and so may be the others on
        the day when the clocks change."""
        return next(each for longest, each in _EACH if self.hours <= longest)

    def periods(self) -> tuple[datetime, ...]:
        """When they began, the oldest first; in UTC, where no hour comes twice."""
        hours = range(self.last - self.hours + 1, self.last + 1)
        return tuple(dict.fromkeys(self.period_of(hour) for hour in hours))

    def period_of(self, hour: int) -> datetime:
        """When the period of an hour began. Other servers' clocks may differ, so an hour beside
        the window counts to its nearest end."""
        hour = min(max(hour, self.last - self.hours + 1), self.last)
        moment = datetime.fromtimestamp(hour * 3600, self.zone)
        if self.each > 1:
            moment = moment.replace(hour=moment.hour - moment.hour % self.each, minute=0, fold=0)
        return moment.astimezone(UTC)
