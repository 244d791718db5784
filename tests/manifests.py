"""The Kubernetes manifests of deploy/, as kustomize and a kubelet would read them."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
KUSTOMIZATIONS = sorted(KUBERNETES.rglob("kustomization.yaml"))
EXAMPLE_SECRET = KUBERNETES / "secret.example.yaml"

Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def manifest_files() -> list[Path]:
    """All but the kustomizations and what a user has made of the example secret."""
    others = {*KUSTOMIZATIONS, KUBERNETES / "secret.yaml"}
    return sorted(path for path in KUBERNETES.rglob("*.yaml") if path not in others)


def manifests(kind: str = "") -> list[Manifest]:
    """All of this kind, or simply all."""
    return [
        manifest
        for path in manifest_files()
        for manifest in read(path)
        if manifest["kind"].startswith(kind)
    ]


def manifest(kind: str, name: str) -> Manifest:
    (found,) = [each for each in manifests(kind) if each["metadata"]["name"] == name]
    return found


def pod_of(name: str) -> Any:
    """The pod's spec of the Deployment or Job of this name."""
    (owner,) = [
        each
        for each in [*manifests("Deployment"), *manifests("Job")]
        if each["metadata"]["name"] == name
    ]
    return owner["spec"]["template"]["spec"]


def container_of(pod: Any) -> Any:
    (container,) = pod["containers"]
    return container


def environment_of(pod: Any) -> dict[str, str]:
    """The variables of a pod's container: of its ConfigMaps, then its own."""
    container = container_of(pod)
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= manifest("ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {each["name"]: each["value"] for each in container["env"]}


def mount_secrets(pod: Any, values: dict[str, str], folder: Path) -> None:
    """Write a secret's values to a folder as a kubelet does: links to links to files."""
    (volume,) = pod["volumes"]
    keys = {each["key"]: each["path"] for each in volume["secret"].get("items", [])}
    generation = folder / "..2026_01_01_00_00_00.123456789"
    generation.mkdir(parents=True)
    (folder / "..data").symlink_to(generation.name)
    for key, value in values.items():
        if not keys or key in keys:
            name = keys.get(key, key)
            (generation / name).write_text(value, encoding="utf-8")
            (folder / name).symlink_to(Path("..data") / name)
