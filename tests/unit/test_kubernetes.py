"""The manifests are valid, agree with each other, and say what the code says."""

import asyncio
import http.client
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

import click
import httpx
import kubernetes_validate
import pytest
import yaml
from starlette.applications import Starlette

from node_timeout.cli.main import cli
from node_timeout.dispatch.queue_room import MESSAGES_AHEAD
from node_timeout.runtime.loop import Health
from node_timeout.runtime.monitor import MonitorHttp
from node_timeout.setting_rules import refuse_misspelt, variable
from node_timeout.settings import Settings
from node_timeout.urls.secret_files import SECRETS_DIR
from node_timeout.web.routes import _about_itself
from node_timeout.web.server import is_loopback
from tests.manifests import (
    EXAMPLE_SECRET,
    KUBERNETES,
    KUSTOMIZATIONS,
    ROOT,
    container_of,
    environment_of,
    manifest,
    manifest_files,
    manifests,
    mount_secrets,
    pod_of,
    read,
)

# The oldest that has all that is used without a feature gate, and the newest with schemas.
VERSIONS = ("1.31", "1.37")
DAEMONS = ("node-timeout-scan", "node-timeout-worker")
SERVE = "node-timeout-serve"
DEPLOYMENTS = (*DAEMONS, SERVE)
PODS = (*DEPLOYMENTS, "node-timeout-migrate")
HOW_TOS = sorted(ROOT.glob("docs/**/run-on-kubernetes.md"))
# What a worker needs after `shutdown_timeout` to put back what it has cancelled.
PUT_BACK_SECONDS = 5
# What the web server needs at most: for its open requests, then for its own end.
SERVE_ENDS_SECONDS = 5 + 10

SECRET_SETTINGS = {
    variable(name).lower()
    for name, field in Settings.model_fields.items()
    if "SecretStr" in str(field.annotation)
}


def example_secret() -> dict[str, str]:
    (secret,) = read(EXAMPLE_SECRET)
    values: dict[str, str] = secret["stringData"]
    return values


def settings_of(pod: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the process in this pod reads, if the secret is the example."""
    for name, value in environment_of(pod).items():
        monkeypatch.setenv(name, value)
    mount_secrets(pod, example_secret(), folder)
    monkeypatch.setenv(SECRETS_DIR, str(folder))
    return Settings()


def documented_manifests(document: Path) -> list[Any]:
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [each for block in blocks for each in yaml.safe_load_all(dedent(block))]


# Form


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", manifest_files(), ids=lambda path: str(path.name))
def test_every_manifest_fits_the_published_schemas(path: Path, version: str) -> None:
    for each in read(path):
        if not each["apiVersion"].startswith("keda.sh/"):
            assert kubernetes_validate.validate(each, version, strict=True) == version


def test_the_schemas_would_find_a_misspelt_field() -> None:
    deployment = manifest("Deployment", "node-timeout-scan")
    container_of(deployment["spec"]["template"]["spec"])["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenessProb"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("document", HOW_TOS, ids=lambda path: path.parts[-3])
def test_manifests_in_the_documents_fit_too(document: Path) -> None:
    overlay, scaler = documented_manifests(document)
    checkout = "node-timeout/"
    for path in [*overlay["resources"], *overlay["components"]]:
        assert (ROOT / path.removeprefix(checkout) / "kustomization.yaml").exists()
    (root,) = read(KUBERNETES / "kustomization.yaml")
    assert overlay["images"][0]["name"] == root["images"][0]["newName"]
    assert overlay["images"][0]["newTag"] == root["images"][0]["newTag"]
    (patch,) = overlay["patches"]
    (operation,) = yaml.safe_load(patch["patch"])
    settings = manifest(patch["target"]["kind"], patch["target"]["name"])["data"]
    assert operation["path"].removeprefix("/data/") in settings
    assert kubernetes_validate.validate(scaler, VERSIONS[-1], strict=True) == VERSIONS[-1]
    target = scaler["spec"]["scaleTargetRef"]
    assert manifest(target["kind"], target["name"])["apiVersion"] == target["apiVersion"]


@pytest.mark.parametrize("document", HOW_TOS, ids=lambda path: path.parts[-3])
def test_selectors_in_the_documents_select_something(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    chosen = re.findall(r"--selector (\S+?)(!?=)(\S+)", text)
    assert len(chosen) == 4
    for key, _, value in chosen:
        assert value in {each["metadata"]["labels"].get(key) for each in manifests()}


def test_both_languages_show_the_same_commands() -> None:
    shown = [
        re.findall(
            r"^(?:kubectl|docker) [^#\n]*?(?= *#|$)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        for path in HOW_TOS
    ]
    assert len(shown) == 2
    assert shown[0] == shown[1]


def test_every_manifest_is_in_a_kustomization_but_the_example_secret() -> None:
    listed = [
        (path.parent / name).resolve()
        for path in KUSTOMIZATIONS
        for each in read(path)
        for name in each["resources"]
    ]
    assert sorted([*listed, EXAMPLE_SECRET.resolve()]) == [
        path.resolve() for path in manifest_files()
    ]


def test_components_are_optional_and_exist() -> None:
    (root,) = read(KUBERNETES / "kustomization.yaml")
    assert "components" not in root
    text = (KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8")
    offered = re.findall(r"#\s+- (components/\S+)", text)
    assert sorted(KUBERNETES / each / "kustomization.yaml" for each in offered) == [
        path for path in KUSTOMIZATIONS if path.parent != KUBERNETES
    ]
    for path in KUSTOMIZATIONS:
        (each,) = read(path)
        assert each["kind"] == ("Kustomization" if path.parent == KUBERNETES else "Component")


def test_nothing_names_a_namespace_or_holds_a_real_secret() -> None:
    for each in manifests():
        assert "namespace" not in each["metadata"]
    secrets = manifests("Secret")
    assert [each["metadata"]["name"] for each in secrets] == ["node-timeout"]
    assert all("CHANGE_ME" in value for value in example_secret().values())


def test_the_overlay_alone_says_which_image() -> None:
    (root,) = read(KUBERNETES / "kustomization.yaml")
    (image,) = root["images"]
    assert image["newTag"] == "TAG"
    assert {container_of(pod_of(name))["image"] for name in PODS} == {image["name"]}
    # A kustomization renames the images of its own resources only.
    for path in KUSTOMIZATIONS:
        (each,) = read(path)
        pods = [
            manifest
            for name in each["resources"]
            for manifest in read(path.parent / name)
            if manifest["kind"] in ("Deployment", "Job")
        ]
        assert each.get("images", []) == ([image] if pods else [])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_renders_the_overlay_of_the_documents_with_every_component(
    tmp_path: Path,
) -> None:
    overlay = documented_manifests(HOW_TOS[0])[0]
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes", ignore=shutil.ignore_patterns("secret*"))
    overlay["resources"] = ["../kubernetes"]
    overlay["components"] = [
        f"../kubernetes/{path.parent.relative_to(KUBERNETES)}"
        for path in KUSTOMIZATIONS
        if path.parent != KUBERNETES
    ]
    folder = tmp_path / "overlay"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rendered = list(yaml.safe_load_all(done.stdout))
    assert {each["metadata"]["namespace"] for each in rendered} == {overlay["namespace"]}
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in rendered
        if each["kind"] in ("Deployment", "Job")
    }
    (image,) = overlay["images"]
    expected = f"{image['newName']}:{image['newTag']}"
    assert {name: container_of(pod)["image"] for name, pod in pods.items()} == dict.fromkeys(
        PODS, expected
    )


# Settings


@pytest.mark.parametrize("name", PODS)
def test_every_variable_is_a_setting(name: str) -> None:
    known = {variable(each) for each in Settings.model_fields} | {SECRETS_DIR}
    assert set(environment_of(pod_of(name))) <= known


@pytest.mark.parametrize("name", PODS)
def test_the_settings_are_read_from_variables_and_secret_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(pod_of(name), tmp_path / "secrets", monkeypatch)
    secret = example_secret()
    assert settings.database_url.get_secret_value() == secret["node_timeout_database_url"]
    if name in DEPLOYMENTS:
        assert settings.redis_url.get_secret_value() == secret["node_timeout_redis_url"]
        assert settings.amqp_url.get_secret_value() == secret["node_timeout_amqp_url"]
        assert (settings.engine, settings.log_format) == ("dry_run", "json")
    if name == SERVE:
        assert settings.web_secret is not None
        assert settings.web_secret.get_secret_value() == secret["node_timeout_web_secret"]


def test_every_key_of_the_secret_is_a_secret_setting_and_none_is_forgotten() -> None:
    text = EXAMPLE_SECRET.read_text(encoding="utf-8")
    assert set(example_secret()) <= SECRET_SETTINGS
    assert set(re.findall(r"^  (?:# )?(node_timeout_\w+):", text, re.MULTILINE)) == SECRET_SETTINGS


@pytest.mark.parametrize("name", PODS)
def test_secrets_are_files_where_the_process_looks_and_not_variables(name: str) -> None:
    pod = pod_of(name)
    (volume,), (mount,) = pod["volumes"], container_of(pod)["volumeMounts"]
    assert volume["name"] == mount["name"]
    assert mount["mountPath"] == environment_of(pod)[SECRETS_DIR]
    assert mount["readOnly"] is True
    assert volume["secret"]["secretName"] == read(EXAMPLE_SECRET)[0]["metadata"]["name"]
    assert volume["secret"]["defaultMode"] == 0o440
    for item in volume["secret"].get("items", []):
        assert item["key"] == item["path"]
        assert item["key"] in example_secret()
    assert not {each.lower() for each in environment_of(pod)} & SECRET_SETTINGS


def test_only_workers_get_the_secrets_of_engine_and_webhook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PODS:
        mount_secrets(pod_of(name), dict.fromkeys(SECRET_SETTINGS, "x"), tmp_path / name)
    stores = {variable(name).lower() for name in ("database_url", "redis_url", "amqp_url")}
    seen = {name: {path.name for path in (tmp_path / name).glob("node*")} for name in PODS}
    assert seen == {
        "node-timeout-scan": stores,
        "node-timeout-worker": SECRET_SETTINGS,
        "node-timeout-serve": stores | {"node_timeout_web_secret"},
        "node-timeout-migrate": {"node_timeout_database_url"},
    }


def test_the_migration_needs_nothing_but_the_secret() -> None:
    pod = pod_of("node-timeout-migrate")
    assert "envFrom" not in container_of(pod)
    assert "serviceAccountName" not in pod


# Processes


@pytest.mark.parametrize("name", PODS)
def test_the_command_line_is_one_that_exists(name: str) -> None:
    container = container_of(pod_of(name))
    assert "command" not in container, "the image's entry point is the command"
    command, *arguments = container["args"]
    assert name == f"node-timeout-{command}"
    cli.commands[command].make_context(command, arguments)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_probes_ask_pages_that_exist_on_the_port_of_the_process(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = pod_of(name)
    container = container_of(pod)
    settings = settings_of(pod, tmp_path / "secrets", monkeypatch)
    if name == SERVE:
        host, expected = settings.web_host, {"name": "http", "containerPort": settings.web_port}
    else:
        host = settings.metrics_host
        expected = {"name": "metrics", "containerPort": settings.metrics_port}
    assert host == "0.0.0.0"
    (port,) = container["ports"]
    assert port == expected
    asked = {
        probe: container[probe]["httpGet"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert {probe: get["path"] for probe, get in asked.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert {get["port"] for get in asked.values()} == {port["name"]}
    annotations = scrape_annotations(name)
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    pages = {*(get["path"] for get in asked.values()), annotations["prometheus.io/path"]}
    ask = answer_of_the_web_server if name == SERVE else answer
    assert {page: ask(page) for page in pages} == dict.fromkeys(pages, 200)


def scrape_annotations(name: str) -> dict[str, str]:
    found: dict[str, str] = manifest("Deployment", name)["spec"]["template"]["metadata"][
        "annotations"
    ]
    return found


def answer(page: str) -> int:
    """The status with which a healthy process answers."""
    health = Health(name="scanner", ready=True)
    server = MonitorHttp("127.0.0.1", 0, [health])
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request("GET", page)
        return connection.getresponse().status
    finally:
        connection.close()
        server.close()


def answer_of_the_web_server(page: str) -> int:
    """The status with which a healthy one answers those who show no token."""

    async def asked() -> httpx.Response:
        pages = httpx.ASGITransport(Starlette(routes=_about_itself(is_ready=lambda: True)))
        async with httpx.AsyncClient(transport=pages, base_url="http://serve.example") as client:
            return await client.get(page)

    return asyncio.run(asked()).status_code


@pytest.mark.parametrize("name", DAEMONS)
def test_a_pod_is_given_time_to_finish(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = pod_of(name)
    settings = settings_of(pod, tmp_path / "secrets", monkeypatch)
    assert pod["terminationGracePeriodSeconds"] > settings.shutdown_timeout + PUT_BACK_SECONDS


def test_serve_is_given_time_to_finish() -> None:
    pod = pod_of(SERVE)
    asleep = container_of(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > asleep + SERVE_ENDS_SECONDS


def test_a_container_in_a_pod_listens_only_behind_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(pod_of(SERVE), tmp_path / "secrets", monkeypatch)
    assert not is_loopback(settings.web_host)
    assert settings.web_trusted_proxies == ()


TOKEN_COMMENTS = (
    KUBERNETES / "components" / "serve" / "kustomization.yaml",
    ROOT / "docker-compose.yml",
)


@pytest.mark.parametrize("path", TOKEN_COMMENTS, ids=lambda path: str(path.name))
def test_the_comment_makes_the_first_token_where_a_process_runs(path: Path) -> None:
    (line,) = re.findall(r"^# +(.* exec .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    where, _, arguments = line.partition(" node-timeout token ")
    command, *others = arguments.split()
    tokens = cli.commands["token"]
    assert isinstance(tokens, click.Group)
    assert tokens.commands[command].make_context(command, others).params["role"] == "admin"
    if path.name == "docker-compose.yml":
        assert where == "docker compose exec worker"
    else:
        pod = where.removeprefix("kubectl exec deployment/").removesuffix(" --")
        assert pod in DAEMONS


# Pods


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_rights(name: str) -> None:
    pod = pod_of(name)
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    user, group = map(int, re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)[-1])
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert user > 0
    assert container_of(pod)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    resources = container_of(pod)["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert "memory" in resources["limits"]


def test_the_service_account_exists_and_has_no_token() -> None:
    for name in DEPLOYMENTS:
        account = manifest("ServiceAccount", pod_of(name)["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_selectors_match_their_own_pods_alone(name: str) -> None:
    deployment = manifest("Deployment", name)
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selected(selector) == [name]
    assert deployment["spec"]["replicas"] >= 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    spread = pod_of(name)["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    for each in spread:
        assert each["labelSelector"]["matchLabels"] == selector
    (budget,) = [
        each
        for each in manifests("PodDisruptionBudget")
        if selected(each["spec"]["selector"]["matchLabels"]) == [name]
    ]
    assert budget["spec"]["maxUnavailable"] < deployment["spec"]["replicas"]


def selected(labels: dict[str, str]) -> list[str]:
    """The names of the Deployments and Jobs whose pods have these labels."""
    return [
        each["metadata"]["name"]
        for each in [*manifests("Deployment"), *manifests("Job")]
        if labels.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    ]


# Components


def test_keda_scales_the_workers_by_the_dispatch_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = manifest("ScaledObject", "node-timeout-worker")["spec"]
    pod = pod_of(scaled["scaleTargetRef"]["name"])
    (trigger,) = scaled["triggers"]
    settings = settings_of(pod, tmp_path / "secrets", monkeypatch)
    assert trigger["metadata"]["queueName"] == settings.dispatch_queue
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert 2 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]
    # As many messages as ever wait there ask for all of them.
    assert scaled["maxReplicaCount"] * int(trigger["metadata"]["value"]) <= MESSAGES_AHEAD
    authentication = manifest("TriggerAuthentication", trigger["authenticationRef"]["name"])
    (reference,) = authentication["spec"]["secretTargetRef"]
    assert reference["name"] == pod["volumes"][0]["secret"]["secretName"]
    assert reference["key"] in example_secret()
    assert (trigger["type"], reference["parameter"]) == ("rabbitmq", "host")


def test_with_keda_an_apply_leaves_the_number_of_workers_alone() -> None:
    (component,) = read(KUBERNETES / "components" / "keda" / "kustomization.yaml")
    (patch,) = component["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": "node-timeout-worker"}
    assert yaml.safe_load(patch["patch"]) == [{"op": "remove", "path": "/spec/replicas"}]


@pytest.mark.parametrize(
    "document", sorted(ROOT.glob("docs/**/run-in-production.md")), ids=lambda path: path.parts[-3]
)
def test_the_tokens_of_the_documents_can_be_made(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    shown = re.findall(r"node-timeout token create (--.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(shown) == 3
    tokens = cli.commands["token"]
    assert isinstance(tokens, click.Group)
    for arguments in shown:
        tokens.commands["create"].make_context("create", arguments.split())


def test_the_network_policies_open_the_ports_of_the_processes_alone() -> None:
    everywhere = manifest("NetworkPolicy", "node-timeout")["spec"]
    assert set(selected(everywhere["podSelector"]["matchLabels"])) == set(PODS)
    (rule,) = everywhere["ingress"]
    (source,) = rule["from"]
    assert set(source) == {"namespaceSelector", "podSelector"}
    for name in DAEMONS:
        assert rule["ports"] == [{"port": container_of(pod_of(name))["ports"][0]["name"]}]
    of_serve = manifest("NetworkPolicy", SERVE)["spec"]
    assert selected(of_serve["podSelector"]["matchLabels"]) == [SERVE]
    (rule,) = of_serve["ingress"]
    assert source in rule["from"]
    assert all(set(each) == {"namespaceSelector", "podSelector"} for each in rule["from"])
    assert rule["ports"] == [{"port": container_of(pod_of(SERVE))["ports"][0]["name"]}]


def test_the_service_leads_to_serve_alone_and_its_variables_harm_nobody() -> None:
    service = manifest("Service", SERVE)
    assert selected(service["spec"]["selector"]) == [SERVE]
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == container_of(pod_of(SERVE))["ports"][0]["name"]
    # Kubernetes sets these in every pod of the namespace, also in those that use the library.
    prefix = SERVE.upper().replace("-", "_")
    parts = ["PORT", "SERVICE_HOST", "SERVICE_PORT", f"SERVICE_PORT_{port['name'].upper()}"]
    parts += [f"PORT_{port['port']}_TCP{each}" for each in ("", "_ADDR", "_PORT", "_PROTO")]
    set_by_kubernetes = [f"{prefix}_{part}" for part in parts]
    assert not {variable(each) for each in Settings.model_fields} & set(set_by_kubernetes)
    refuse_misspelt(set_by_kubernetes)


# The image


def test_the_image_is_built_from_what_the_build_needs() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = " ".join(re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE)).split()
    assert {f"!{each}" for each in copied} == {each for each in ignored if each.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["force-include"], project["project"]["readme"]}
    assert needed <= set(copied)
    for path in copied:
        assert (ROOT / path).exists()


def test_the_image_has_the_extras_that_its_processes_need() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", dockerfile)
    assert set(extras.split(",")) == {"postgres", "mysql", "web"}


# Docker Compose


def test_docker_compose_says_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    (compose,) = read(ROOT / "docker-compose.yml")
    ours = {
        name: service
        for name, service in compose["services"].items()
        if service["image"] == "node-timeout"
    }
    assert set(ours) == {"migrate", "scan", "worker", "serve"}
    for name, service in ours.items():
        for setting, value in service["environment"].items():
            monkeypatch.setenv(setting, re.sub(r"\$\{\w+:-(\w*)\}", r"\1", value))
        settings = Settings()
        known = {variable(each) for each in Settings.model_fields}
        assert set(service["environment"]) <= known
        (command, *arguments) = service["command"]
        cli.commands[command].make_context(command, arguments)
        grace = float(service["stop_grace_period"].removesuffix("s"))
        assert grace > settings.shutdown_timeout + PUT_BACK_SECONDS
        if not service["healthcheck"].get("disable"):
            port = settings.web_port if name == "serve" else settings.metrics_port
            assert f"127.0.0.1:{port}/healthz" in str(service["healthcheck"])
        assert service["read_only"] is True
    published = {
        name: re.sub(r"\$\{\w+:-(\w+)\}", r"\1", port)
        for name, service in compose["services"].items()
        for port in service.get("ports", ())
    }
    assert published == {
        "redis": "127.0.0.1:6379:6379",
        "rabbitmq": "127.0.0.1:5672:5672",
        "postgres": "127.0.0.1:5432:5432",
        "scan": "127.0.0.1:9464:9464",
        "worker": "127.0.0.1:9465:9464",
        "serve": "127.0.0.1:8642:8642",
    }
    monkeypatch.setenv("NODE_TIMEOUT_WEB_SECRET", "")
    assert Settings().web_secret is None
