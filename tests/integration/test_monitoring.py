"""The dashboard, the alerts and Prometheus' configuration fit the server and each other."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.server import running_server
from tests.integration.test_metrics import post, status_of

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deployment" / "monitoring"
NAME = re.compile(r"\b(?:mili:|process_)[a-z0-9_]+")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus")


def dashboard() -> dict[str, Any]:
    return json.loads((MONITORING / "grafana-dashboard.json").read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    """What the dashboard's panels ask Prometheus, with a value for each of Grafana's variables."""
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*").replace("$instance", ".*")


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]
    ]


def variables() -> list[str]:
    return [each["query"]["query"] for each in dashboard()["templating"]["list"] if each["type"] == "query"]


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """The labels of every metric that a server has once it has answered a request."""
    with running_server() as url:
        post(url, "/generate", {"prompt": "x", "max_tokens": 3})
        assert status_of(url, "/generate", {}) == 400
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def test_every_metric_of_dashboard_and_alerts_is_exported(exported: dict[str, set[str]]) -> None:
    asked = [*expressions(), *variables(), *(rule["expr"] for rule in rules())]
    names = {name for expression in asked for name in NAME.findall(expression)}
    assert len(names) > 20
    assert names - exported.keys() == set()


def test_every_label_is_one_the_metric_has(exported: dict[str, set[str]]) -> None:
    scraped = {"job", "instance"}  # Prometheus' own
    selectors = [
        (name, label)
        for expression in [*expressions(), *(rule["expr"] for rule in rules())]
        for name, body in re.findall(r"((?:mili:|process_)[a-z0-9_]+)\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)\s*=~?", body)
    ]
    assert len(selectors) > 40
    assert [(name, label) for name, label in selectors if label not in exported[name] | scraped] == []


def test_every_metric_is_in_the_docs_and_the_engines_are_on_the_dashboard(exported: dict[str, set[str]]) -> None:
    own = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if name.startswith("mili:")}
    own.discard("mili:http_requests_created")  # the client library's, beside each counter of its own
    docs = (ROOT / "docs" / "observability.md").read_text()
    described = set(re.findall(r"^\| `(mili:\w+)` \|", docs, re.MULTILINE))
    assert described == own
    shown = {name for expression in expressions() for name in NAME.findall(expression)}
    assert own - {re.sub(r"_bucket$", "", name) for name in shown} == set()


def test_panels_do_not_overlap_and_have_what_grafana_needs() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, (panel["title"], taken.get(cell))
            taken[cell] = panel["title"]
    identifiers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_alerts_say_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) == 7
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_scrape_reads_the_default_port_and_the_alerts() -> None:
    configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    [job] = configuration["scrape_configs"]
    assert job["job_name"] == "mili"
    assert job["static_configs"] == [{"targets": ["localhost:8000"]}]
    assert configuration["rule_files"] == ["alerts.yml"]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)


@needs_promtool
def test_prometheus_takes_its_configuration_and_the_alerts() -> None:
    result = promtool("check", "config", MONITORING / "prometheus.yml")
    assert result.returncode == 0, result.stderr
    assert "7 rules found" in result.stdout


@needs_promtool
def test_the_alerts_fire_when_they_should() -> None:
    result = promtool("test", "rules", MONITORING / "alerts_test.yml")
    assert result.returncode == 0, result.stdout + result.stderr
    tested = (MONITORING / "alerts_test.yml").read_text()
    assert {rule["alert"] for rule in rules()} == set(re.findall(r"alertname: (\w+)", tested))


@needs_promtool
def test_every_expression_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{i}", "expr": expression} for i, expression in enumerate(expressions())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    result = promtool("check", "rules", file)
    assert result.returncode == 0, result.stderr
    recorded[0]["expr"] = "sum(rate(mili:num_aborts_total[5m])"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert promtool("check", "rules", file).returncode != 0
