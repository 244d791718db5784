"""Alarms and dashboard ask for metrics that exist, and Prometheus's own tool accepts both."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram, generate_latest

from node_timeout import metrics
from tests.manifests import ROOT, container_of, manifests, pod_of

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "rules.yaml"
RULES_TEST = PROMETHEUS / "rules_test.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "node-timeout.json"
GRAFANA_VARIABLES = {"$__rate_interval": "5m", "$__range": "6h"}
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
ADDED_BY_PROMETHEUS = {"job", "instance"}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def sample_labels() -> dict[str, set[str]]:
    """Of every sample that Prometheus gets: its name, and the labels it may have."""
    found: dict[str, set[str]] = {}
    for each in vars(metrics).values():
        if isinstance(each, Counter):
            found[f"{each._name}_total"] = set(each._labelnames)
        elif isinstance(each, Histogram):
            found[f"{each._name}_bucket"] = {*each._labelnames, "le"}
            found |= {f"{each._name}_{part}": set(each._labelnames) for part in ("sum", "count")}
        elif isinstance(each, Gauge):
            found[each._name] = set(each._labelnames)
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alarms() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    return [each for each in dashboard()["panels"] if each["type"] != "row"]


def dashboard_expressions() -> list[str]:
    """What each panel asks for, with Grafana's variables filled in."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    for name, value in GRAFANA_VARIABLES.items():
        found = [each.replace(name, value) for each in found]
    return found


def expressions() -> list[str]:
    return [*(rule["expr"] for rule in rules()), *dashboard_expressions()]


def metrics_in(text: str) -> set[str]:
    """Without the names of the recording rules, which have a colon."""
    return set(re.findall(r"(?<![\w:])node_timeout_\w+(?![\w:])", text))


def test_every_metric_exists() -> None:
    known = sample_labels()
    assert [name for each in expressions() for name in metrics_in(each) if name not in known] == []
    in_the_test = metrics_in(RULES_TEST.read_text(encoding="utf-8"))
    assert sorted(in_the_test - set(known)) == []


def test_the_tests_know_every_metric_of_the_module() -> None:
    page = generate_latest().decode()
    exported = set(re.findall(r"^(node_timeout_\w+?)(?:\{.*\})? [-+.\w]+$", page, re.MULTILINE))
    assert {name for name in exported if not name.endswith("_created")} <= set(sample_labels())


def test_every_recorded_ratio_is_one_that_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    named = {name for each in expressions() for name in re.findall(r"\bnode_timeout:[\w:]+", each)}
    assert named == recorded


@pytest.mark.parametrize("expression", dict.fromkeys(expressions()))
def test_every_label_is_one_that_the_metric_has(expression: str) -> None:
    known = sample_labels()
    for name, selector in re.findall(r"(node_timeout_\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", selector))
        assert labels <= known[name] | ADDED_BY_PROMETHEUS
    used = set().union(*(known[name] for name in metrics_in(expression)), set())
    for grouping in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {each.strip() for each in grouping.split(",")} <= used


def test_the_objective_is_a_bucket_of_the_histogram() -> None:
    asked = {
        bucket for each in expressions() for bucket in re.findall(r"\w+_bucket\{[^}]*\}", each)
    }
    names = [f"node_timeout_{each}lateness_seconds_bucket" for each in ("", "canary_")]
    assert asked == {f'{name}{{le="1.0"}}' for name in names}
    metrics.CANARY_LATENESS.labels(0)
    page = generate_latest().decode()
    for name in names:
        assert re.search(rf'^{name}{{le="1\.0".*}} ', page, re.MULTILINE)


# Alarms


def test_every_alarm_says_how_urgent_it_is_and_what_to_do() -> None:
    names = [each["alert"] for each in alarms()]
    assert len(names) == len(set(names))
    for each in alarms():
        assert each["labels"]["severity"] in ("page", "ticket")
        assert set(each["annotations"]) == {"summary", "description"}


@needs_promtool
def test_promtool_accepts_the_rules_and_they_fire_when_they_should() -> None:
    done = promtool("check", "rules", RULES)
    assert (done.returncode, done.stderr) == (0, "")
    done = promtool("test", "rules", RULES_TEST)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alarm_fires_in_a_test() -> None:
    text = RULES_TEST.read_text(encoding="utf-8")
    firing = set(re.findall(r'alertname="(\w+)"', text))
    assert firing == {each["alert"] for each in alarms()}


@needs_promtool
def test_the_test_of_the_alarms_would_find_each_that_does_not_fire(tmp_path: Path) -> None:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for group in document["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["expr"] = f"({rule['expr']}) and vector(1) == 0"
    (tmp_path / RULES.name).write_text(yaml.safe_dump(document), encoding="utf-8")
    done = promtool("test", "rules", shutil.copy(RULES_TEST, tmp_path))
    assert done.returncode != 0
    found = {each["alert"] for each in alarms() if each["alert"] in done.stdout + done.stderr}
    assert found == {each["alert"] for each in alarms()}


# What Prometheus is told to read


def scraped(name: str) -> Any:
    text = (PROMETHEUS / name).read_text(encoding="utf-8")
    configuration = yaml.safe_load(text)
    assert configuration["rule_files"] == [RULES.name]
    return configuration["scrape_configs"]


def jobs_in_the_rules() -> set[str]:
    return {job for each in expressions() for job in re.findall(r'job="([^"]+)"', each)}


def test_one_host_is_read_at_the_ports_of_compose_and_of_systemd() -> None:
    targets = {
        each["job_name"]: each["static_configs"][0]["targets"]
        for each in scraped("scrape-one-host.yaml")
    }
    assert targets == {
        "node-timeout-scan": ["127.0.0.1:9464"],
        "node-timeout-worker": ["127.0.0.1:9465"],
        "node-timeout-serve": ["127.0.0.1:8642"],
    }
    assert jobs_in_the_rules() <= set(targets)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    for job, (target,) in targets.items():
        command = job.removeprefix("node-timeout-")
        (port,) = compose["services"][command]["ports"]
        host_port = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", port).rpartition(":")[0]
        assert host_port == target
        unit = (ROOT / "deploy" / "systemd" / f"{job}.service").read_text(encoding="utf-8")
        if command != "serve":
            assert f"{command} --metrics-port {target.partition(':')[2]}\n" in unit


def test_in_kubernetes_a_job_is_named_as_its_deployment() -> None:
    (job,) = scraped("scrape-kubernetes.yaml")
    (discovery,) = job["kubernetes_sd_configs"]
    assert discovery == {"role": "pod"}
    (naming,) = [each for each in job["relabel_configs"] if each.get("target_label") == "job"]
    label = naming["source_labels"][0].removeprefix("__meta_kubernetes_pod_label_")
    deployments = manifests("Deployment")
    assert jobs_in_the_rules() <= {each["metadata"]["name"] for each in deployments}
    for each in deployments:
        name, pod = each["metadata"]["name"], each["spec"]["template"]["metadata"]
        labels = {re.sub(r"\W", "_", key): value for key, value in pod["labels"].items()}
        assert naming["replacement"].replace("$1", labels[label]) == name
        assert labels["app_kubernetes_io_name"] == "node-timeout"
        assert pod["annotations"]["prometheus.io/scrape"] == "true"
        (port,) = container_of(pod_of(name))["ports"]
        assert str(port["containerPort"]) == pod["annotations"]["prometheus.io/port"]


@needs_promtool
def test_promtool_accepts_what_it_is_told_to_read(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    for name in ("scrape-one-host.yaml", "scrape-kubernetes.yaml"):
        text = (PROMETHEUS / name).read_text(encoding="utf-8")
        # Debian's is built without Kubernetes.
        text = text.replace("kubernetes_sd_configs:\n      - role: pod\n", "static_configs: []\n")
        (tmp_path / name).write_text(text, encoding="utf-8")
        done = promtool("check", "config", tmp_path / name)
        assert done.returncode == 0, done.stderr


# The dashboard


@needs_promtool
def test_promtool_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    wrapped = [
        {"record": f"dashboard:expression:{number}", "expr": each}
        for number, each in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": wrapped}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(wrapped)} rules found" in done.stdout


def test_no_variable_of_the_dashboard_is_unknown() -> None:
    assert [each for each in dashboard_expressions() if "$" in each] == []
    (variable,) = dashboard()["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    for panel in panels():
        assert panel["datasource"] == DATA_SOURCE
        assert all(target["datasource"] == DATA_SOURCE for target in panel["targets"])


def test_every_panel_is_explained_and_none_covers_another() -> None:
    everything = dashboard()["panels"]
    ids = [each["id"] for each in everything]
    assert len(ids) == len(set(ids))
    covered: set[tuple[int, int]] = set()
    for each in everything:
        place = each["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & covered, each["title"]
        covered |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        assert all(target["legendFormat"] for target in panel["targets"])


def test_labels_in_a_legend_are_those_by_which_the_sum_is_taken() -> None:
    for panel in panels():
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = {
                each.strip()
                for grouping in re.findall(r"\bby \(([^)]*)\)", target["expr"])
                for each in grouping.split(",")
            }
            assert shown == grouped - {"le"}


def test_alarm_and_dashboard_have_one_objective() -> None:
    texts = [each["expr"] for each in alarms() if "late:" in each["expr"]]
    assert {factor for text in texts for factor in re.findall(r"> ([\d.]+) \*", text)} == {
        "14.4",
        "6",
    }
    assert all("* 0.001" in text for text in texts)
    (burn,) = [each for each in panels() if "burn rate" in each["title"]]
    assert all(target["expr"].endswith("/ 0.001") for target in burn["targets"])
