"""The figures that operators look at: what happened within some hours, and how things stand now.

The command and the admin's dashboard tell the same ones. They come from the hourly counters, from
bounded looks at the ledger and from the database's catalogue.
"""

from idempotency.figures.gathering import LONGEST, Figures, gather

__all__ = ["LONGEST", "Figures", "gather"]
