"""`python -m chaos`, which is `make chaos`: 0 where every promise held and every fault struck."""

import argparse
import json
import random
import sys
from pathlib import Path

from rich.console import Console

from chaos import campaign, report


def main() -> int:
    """Parse the command line, carry the campaign out, print and judge it."""
    options = _parser().parse_args()
    console = Console()
    found = campaign.run(
        options.seed,
        options.seconds,
        unprotected=options.unprotected,
        told=lambda what: console.print(f"  {what}", style="dim", highlight=False),
    )
    report.show(console, found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["violations"] or found["missed"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Requests, duplicates and jobs while everything is killed, hung and emptied.",
    )
    parser.add_argument("--seconds", type=_length, default=120.0, help="default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="a campaign to run again"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts to a file")
    parser.add_argument(
        "--unprotected",
        action="store_true",
        help="the same without protection, to see that the oracle finds what is then broken",
    )
    return parser


def _length(text: str) -> float:
    value = float(text)
    if value < 40:
        raise argparse.ArgumentTypeError("below 40 seconds not every fault has its turn")
    return value


if __name__ == "__main__":
    sys.exit(main())
