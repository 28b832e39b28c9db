"""`python -m benchmarks`, which is `make bench`."""

import argparse
import os
from pathlib import Path

import django

from benchmarks import backing


def main() -> None:
    """Parse the command line, bring the servers up, and run."""
    options = _parser().parse_args()
    urls = os.environ.get("DATABASE_URL", ""), os.environ.get("REDIS_URL", "")
    with backing.servers(*urls) as (database_url, small_url, redis_url):
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
            "DATABASE_URL": database_url,
            "SMALL_DATABASE_URL": small_url,
            "REDIS_URL": redis_url,
            "BENCHMARK_PEERS": "1" if options.peers else "",
        }
        django.setup()
        # Views and models need the settings, and those need the servers.
        from benchmarks import session  # noqa: PLC0415

        session.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What a protected create costs, as ratios measured side by side in one run.",
        epilog="DATABASE_URL names a PostgreSQL server where a database is made and dropped,"
        " REDIS_URL a numbered database that is emptied; without them both are started.",
    )
    parser.add_argument("--peers", action="store_true", help="measure other packages as well")
    parser.add_argument("--rounds", type=_positive, default=60, help="default: %(default)s")
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=50,
        help="begin no more rounds after so long; default: %(default)s",
    )
    parser.add_argument(
        "--no-crowd", action="store_true", help="leave out wake-up, storm, and HTTP"
    )
    parser.add_argument(
        "--records",
        type=_count,
        default=1_000_000,
        metavar="N",
        help="settled records that the ledger is given for sweep, growth, pages and purge, 0: none"
        " of them; default: %(default)s",
    )
    parser.add_argument(
        "--lines",
        type=_count,
        default=2_000_000,
        metavar="N",
        help="lines of the access log that is audited, 0: no audit; default: %(default)s",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument(
        "--charts", type=Path, metavar="FOLDER", help="draw the figures there, as SVG"
    )
    parser.add_argument(
        "--profile",
        choices=("replay", "first"),
        help="instead: where our own time goes, by cProfile",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return value


if __name__ == "__main__":
    main()
