"""The alert rules with their runbook, the dashboard for Grafana, and what starts both."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

import engine.errors
from engine.errors import TailraceError
from engine.ops.metric_list import METRICS
from engine.ops.runbook import PAGES, anchor
from engine.sandbox import SandboxUnavailable, prometheus_command
from tests.support.metrics_page import PAGE
from tests.support.servers import do_without

ROOT = Path(__file__).parents[2]
PROMETHEUS, GRAFANA = ROOT / "config" / "prometheus", ROOT / "config" / "grafana"
RULES, TESTS = PROMETHEUS / "tailrace.rules.yml", PROMETHEUS / "tailrace.tests.yml"
DASHBOARD = GRAFANA / "dashboards" / "tailrace.json"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
#: The modules that cause the faults of the alerts.
RAISED = ("alerts", "faults", "runbook")
PROMTOOL_SECONDS = 60
#: The variables of Grafana in an expression, with a value that each may have.
GRAFANA_VARIABLES = {"$__rate_interval": "1m", "$pipeline": "shop"}


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def promtool(*arguments: str) -> None:
    try:
        command = prometheus_command("promtool")
    except SandboxUnavailable as error:
        do_without(error)
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=PROMTOOL_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    return [rule for group in loaded(RULES)["groups"] for rule in group["rules"]]


def unknown_metrics(expression: str) -> set[str]:
    """The names of metrics that no engine serves."""
    known = {"up"} | set(re.findall(r"process_\w+", PAGE.read_text(encoding="utf-8")))
    for metric in METRICS:
        ends = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        known |= {metric.name + end for end in ends}
    return set(re.findall(r"\b(?:tailrace|process)_\w+", expression)) - known


# -- alerts ----------------------------------------------------------------------------------------


def test_promtool_accepts_the_configuration() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


def test_each_alert_fires_and_clears() -> None:
    promtool("test", "rules", str(TESTS), str(TESTS.with_name("tailrace.week.tests.yml")))
    fires, clears = set(), set()
    for group in loaded(TESTS)["tests"]:
        for case in group["alert_rule_test"]:
            (fires if case.get("exp_alerts") else clears).add(case["alertname"])
    assert fires == clears == {alert["alert"] for alert in alerts()}


def test_each_alert_has_its_section_in_the_runbook() -> None:
    sections = re.findall(r"^## (Tailrace\w+)$", RUNBOOK, re.MULTILINE)
    listed = dict(re.findall(r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \|", RUNBOOK, re.MULTILINE))
    assert sorted(sections) == sorted(alert["alert"] for alert in alerts())
    assert listed == {alert["alert"]: alert["labels"]["severity"] for alert in alerts()}
    for alert in alerts():
        notes = alert["annotations"]
        assert notes["runbook_url"] == f"docs/runbook.md#{anchor(alert['alert'])}"
        assert notes["summary"].endswith(".")
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert unknown_metrics(alert["expr"]) == set(), alert["alert"]


def test_each_alert_is_raised_on_a_real_engine() -> None:
    """And what its section says to type is tried there."""
    modules = [ROOT / "tests" / "end_to_end" / f"test_{it}.py" for it in RAISED]
    text = "".join(it.read_text(encoding="utf-8") for it in modules)
    assert {it["alert"] for it in alerts()} <= set(re.findall(r"\bTailrace\w+\b", text))


def test_each_error_is_in_the_runbook() -> None:
    errors = {
        name
        for name in engine.errors.__all__
        if issubclass(getattr(engine.errors, name), TailraceError)
    }
    assert set(re.findall(r"^\| `(\w+)` \|", RUNBOOK, re.MULTILINE)) == errors


def test_the_package_brings_the_runbook() -> None:
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert shipped["data-files"]["share/tailrace/docs"] == [f"docs/{name}" for name in PAGES]
    image = (ROOT / "config" / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!docs/{name}" for name in PAGES} <= set(image)


# -- Grafana ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The title of a panel, and an expression of it."""
    for panel in dashboard["panels"]:
        for query in panel.get("targets", ()):
            expression = query["expr"]
            for variable, value in GRAFANA_VARIABLES.items():
                expression = expression.replace(variable, value)
            yield panel["title"], expression


def test_the_expressions_of_the_dashboard_are_valid(
    dashboard: dict[str, Any], tmp_path: Path
) -> None:
    found = list(queries(dashboard))
    assert len(found) > 30
    assert [title for title, text in found if unknown_metrics(text) or "$" in text] == []
    rules = [{"record": f"panel:{number}", "expr": it} for number, (_, it) in enumerate(found)]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_each_metric_is_on_the_dashboard(dashboard: dict[str, Any]) -> None:
    shown = DASHBOARD.read_text(encoding="utf-8")
    # The dashboard has the rows of tables, batches in rows, and all tables by the outcome of their
    # comparisons, not also the rest of them.
    left_out = {
        "tailrace_uncompared_tables",
        "tailrace_build_info",
        "tailrace_table_transactions_total",
        "tailrace_batch_bytes",
    }
    assert {metric.name for metric in METRICS if metric.name not in shown} == left_out


def test_the_dashboard_is_whole(dashboard: dict[str, Any]) -> None:
    """What Grafana needs of each panel: its own id, a place, a data source, named queries."""
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert dashboard["uid"]
    names = {it["name"]: it for it in dashboard["templating"]["list"]}
    assert names["pipeline"]["query"]["query"] == "label_values(tailrace_up, pipeline)"
    assert names["datasource"]["query"] == "prometheus"
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("stat", "timeseries", "table", "bargauge")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        ids = [query["refId"] for query in panel["targets"]]
        assert len(set(ids)) == len(ids) > 0
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def test_the_dashboard_has_only_what_grafana_knows(dashboard: dict[str, Any]) -> None:
    """A key that the schema does not have is lost when it is read by it."""
    register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))
    assert lost(dashboard, read) == []


def lost(before: Any, after: Any, place: str = "") -> list[str]:
    """The places of what is in one and not in the other, which may have more."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [it for key in before for it in lost(before[key], after.get(key), f"{place}/{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [it for number, (b, a) in pairs for it in lost(b, a, f"{place}/{number}")]
    return [] if before == after else [place]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


# -- docker compose --------------------------------------------------------------------------------


def test_compose_starts_prometheus_and_grafana() -> None:
    """They are there only with their profile, read the files of the clone, and are not reachable
    from other machines.
    """
    compose = loaded(ROOT / "docker-compose.yml")
    services = compose["services"]
    asked = {name for name, it in services.items() if it.get("profiles") == ["monitoring"]}
    assert asked == {"prometheus", "grafana"}
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            path = volume.split(":")[0]
            assert (ROOT / path).exists() if path[0] == "." else path in compose["volumes"]
    scraped = loaded(PROMETHEUS / "prometheus.yml")["scrape_configs"][0]["static_configs"]
    port = services["tailrace"]["command"][-1].rpartition(":")[2]
    assert scraped == [{"targets": [f"tailrace:{port}"]}]


def test_grafana_finds_its_data_source_and_dashboard() -> None:
    services = loaded(ROOT / "docker-compose.yml")["services"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (source,) = loaded(GRAFANA / "provisioning/datasources/prometheus.yml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    (provider,) = loaded(GRAFANA / "provisioning/dashboards/tailrace.yml")["providers"]
    folder = provider["options"]["path"]
    assert mounts["./config/grafana/dashboards"] == folder
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/{DASHBOARD.name}"
