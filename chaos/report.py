"""A campaign's counts, as a table that a person can read."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show(console: Console, found: dict[str, Any]) -> None:
    """Print what was done, what was told, and what was broken."""
    table = Table(title=f"campaign {found['seed']}, {found['seconds']:g} s", show_header=False)
    for name in ("attempts", "keys", "executions", "effects", "kills"):
        table.add_row(name, str(found[name]))
    table.add_section()
    for kind, count in found["faults"].items():
        table.add_row(kind, str(count))
    table.add_section()
    for reply, count in found["replies"].items():
        table.add_row(f"told {reply}", str(count))
    table.add_section()
    for service, slowest in found["recovery"].items():
        table.add_row(f"slowest {service} after the faults", f"{slowest:.1f} s")
    table.add_section()
    table.add_row("violations", str(len(found["violations"])))
    console.print(table)
    for violation in found["violations"]:
        name = " ".join(violation["name"])
        console.print(f"broken: {violation['promise']}: {name}: {violation['detail']}")
    for row in found["unfinished"]:
        console.print("unfinished: " + ", ".join(f"{name} {said}" for name, said in row.items()))
    if found["missed"]:
        console.print(f"never struck: {', '.join(found['missed'])}")
    if found["bound"] is not None:
        console.print(
            f"No violation in {found['keys']} keys: at 95 %, fewer than {found['bound']:.2%} of"
            " keys under such faults. A shorter bound needs a longer campaign."
        )
    console.print(f"Again: python -m chaos --seed {found['seed']} --seconds {found['seconds']:g}")
