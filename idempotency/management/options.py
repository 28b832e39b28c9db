"""Options that the commands share."""

from django.core.management.base import CommandParser


def add_database(parser: CommandParser) -> None:
    """`--database ALIAS`: whose records are meant."""
    parser.add_argument(
        "--database",
        metavar="ALIAS",
        help="The database of the records; the router's by default.",
    )
