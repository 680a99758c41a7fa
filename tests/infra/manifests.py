"""The manifests of `infra/kubernetes`, as the tests read them."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra" / "kubernetes"

Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


MANIFESTS = [
    manifest
    for path in sorted(FOLDER.glob("base/*.yaml")) + sorted(FOLDER.glob("jobs/*.yaml"))
    for manifest in read(path)
    if manifest["kind"] != "Kustomization"
]


def called(kind: str, name: str) -> Manifest:
    """A copy of the one manifest of that kind and name."""
    (found,) = [m for m in MANIFESTS if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return copy.deepcopy(found)


def pods(manifest: Manifest) -> Iterator[Manifest]:
    """Every pod template in a manifest."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Deployment" | "StatefulSet":
            yield spec["template"]
        case "CronJob":
            yield spec["jobTemplate"]["spec"]["template"]
        case "RayCluster":
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                yield group["template"]
        case "RayJob":
            yield spec["submitterPodTemplate"]


def containers(pod: Manifest) -> list[Manifest]:
    """All of a pod's."""
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
