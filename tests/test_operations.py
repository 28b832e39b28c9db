"""The runbook and the alert rules name what exists: commands, settings, metrics, sections."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from idempotency import events
from idempotency.conf import Settings
from idempotency.contrib import prometheus

DOCS = Path(__file__).parent.parent / "docs"
RUNBOOK = (DOCS / "operations.md").read_text()
RULES = yaml.safe_load((DOCS / "alerts.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
EXPRESSIONS = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
METRICS = {
    "idempotency_events_total": {"operation", "event", "detail"},
    "idempotency_table_rows": {"database", "table"},
}


def anchors() -> set[str]:
    """The sections of the runbook, as links name them."""
    headings = re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command(name: str) -> BaseCommand:
    found = load_command_class(get_commands()[name], name)
    assert isinstance(found, BaseCommand)
    return found


def commands() -> dict[str, set[str]]:
    """The commands that the runbook names, and the options that follow them."""
    found: dict[str, set[str]] = {}
    for name, rest in re.findall(r"\b(idempotency_(?:audit|purge|recover|stats))\b(.*)", RUNBOOK):
        found.setdefault(name, set()).update(re.findall(r"(?<=[ `])(--[a-z-]+)", rest))
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_commands_and_their_options_are_there(name: str) -> None:
    parser = command(name).create_parser("manage.py", name)
    assert commands()[name] <= parser._option_string_actions.keys()


def test_options_that_are_looked_for_are_found() -> None:
    """The test above has something to say."""
    assert commands()["idempotency_purge"] == {"--max-seconds", "--scope", "--dry-run"}


def test_settings_are_there() -> None:
    named = set(re.findall(r"\bIDEMPOTENCY_[A-Z_]+\b", RUNBOOK))
    assert len(named) > 8
    assert named <= set(vars(Settings))


def test_every_event_and_refusal_is_explained() -> None:
    """And none that there is not."""
    section = RUNBOOK.split("\n## What is counted\n")[1].split("\n## ")[0]
    explained = {
        name
        for row in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert explained == set(prometheus.DETAILS) | prometheus.DETAILS[events.REFUSED]


def test_every_detail_of_observe_mode_is_explained() -> None:
    section = RUNBOOK.split("\n## Roll-out\n")[1].split("\n## ")[0]
    ours = prometheus.DETAILS[events.OBSERVED] - prometheus.DETAILS[events.REFUSED]
    assert ours <= set(re.findall(r"`(\w+)`", section))


def test_every_metric_is_listed_as_it_is() -> None:
    """The sink's own table is tested against what it emits."""
    section = RUNBOOK.split("\n## Prometheus\n")[1].split("\n## ")[0]
    listed = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(
            r"^\| `(idempotency_\w+)` \| (.+?) \|", section, re.MULTILINE
        )
    }
    rows = re.findall(r"^(idempotency_\w+) +\w+ +(.+?)  ", str(prometheus.__doc__), re.MULTILINE)
    assert listed == {name: set(labels.split(", ")) for name, labels in rows}
    assert METRICS.items() <= listed.items()


def test_links_lead_to_sections_and_files() -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([\w-]+))?\)", RUNBOOK)
    assert links
    for file, anchor in links:
        if file:
            assert (DOCS / file).exists(), file
        else:
            assert anchor in anchors(), anchor


def test_the_examples_are_those_that_are_tested() -> None:
    """Here they are for the reader; tests.served has them for gunicorn."""
    shown, hook = re.findall(r"```python\n(.*?)```", RUNBOOK, re.DOTALL)[:2]
    served = (Path(__file__).parent / "served/urls.py").read_text()
    assert lines(shown.split("def metrics")[1]) <= lines(served)
    assert lines(hook.split("def child_exit")[1]) <= lines(
        (Path(__file__).parent / "served/metrics.py").read_text()
    )


def lines(code: str) -> set[str]:
    return {line.strip() for line in code.splitlines()[1:] if line.strip()}


# The alert rules; promtool runs their own tests in CI


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_leads_to_a_section_that_names_it(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] in anchors()
    assert f"`{rule['alert']}`" in RUNBOOK.split("\n## Alerts\n")[1].split("\n## ")[0]


def test_the_runbook_names_no_other_alert() -> None:
    assert set(re.findall(r"`(Idempotency[A-Z]\w+)`", RUNBOOK)) == {
        rule["alert"] for rule in ALERTS
    }


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_alert_asks_for_what_the_sink_says(expression: str) -> None:
    """By metric, label, event and detail: a word that is wrong would never ring."""
    recorded = {
        rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule
    }
    asked = set(re.findall(r"\bidempotency[_:]\w[\w:]*", expression))
    asked -= {value for _, value in matchers(expression)}
    assert asked <= METRICS.keys() | recorded
    assert asked
    for selector in re.findall(r"\{(.*?)\}", expression):
        wanted = dict(matchers(selector))
        assert wanted.keys() <= {"event", "detail", "table"}
        for event in wanted.get("event", "").split("|"):
            details = prometheus.DETAILS[event] if event else frozenset()
            assert "detail" not in wanted or wanted["detail"] in details


def matchers(text: str) -> list[tuple[str, str]]:
    return re.findall(r'(\w+)=~?"([^"]*)"', text)
