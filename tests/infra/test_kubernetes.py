"""The manifests: Kubernetes' and KubeRay's schemas, strictly and offline; and the rules that no schema knows."""

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cfnlint.decode
import jsonschema
import kubernetes_validate
import mlflow.cli
import pytest
import ray
import yaml
from ray._private import ray_constants
from ray.autoscaler._private.kuberay.utils import parse_quantity

from infra import submit
from tests.infra.commands import check_command
from tests.infra.manifests import FOLDER, MANIFESTS, ROOT, Manifest, called, containers, pods

KUBERNETES = "1.34"
OVERLAYS = ("aws", "aws/jobs", "s3-keys", "s3-keys/jobs")


def troubles(manifest: Manifest) -> list[str]:
    """What a schema allows and this project does not."""
    found = []
    spec = manifest.get("spec", {})
    if manifest["kind"] in ("Secret", "Ingress"):
        found.append(f"a {manifest['kind']}")
    if manifest["kind"] == "Service" and spec.get("type", "ClusterIP") != "ClusterIP":
        found.append("a service that is open to the world")
    if manifest["kind"] == "RayCluster" and spec.get("authOptions", {}).get("mode") != "token":
        found.append("Ray without a token")
    if manifest["kind"] == "RayCluster" and "securityContext" not in spec["autoscalerOptions"]:
        found.append("an autoscaler that may be root")
    if manifest["kind"] == "CronJob":
        if spec.get("concurrencyPolicy") != "Forbid":
            found.append("a tick beside the one before")
        if not {"startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= spec.keys():
            found.append("ticks without a deadline, or without an end in the list")
    for pod in pods(manifest):
        if manifest["kind"] == "RayCluster" and not _has_room_for_objects(pod["spec"]):
            found.append("an object store on a disk")
        of_pod = pod["spec"].get("securityContext", {})
        if not of_pod.get("runAsNonRoot") or not of_pod.get("runAsUser"):
            found.append("a pod that may be root")
        if of_pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            found.append("a pod without a seccomp profile")
        for container in containers(pod):
            rights = container.get("securityContext", {})
            if rights.get("allowPrivilegeEscalation") is not False or rights.get("capabilities") != {"drop": ["ALL"]}:
                found.append("a container with privileges")
            resources = container.get("resources", {})
            if any(not {"cpu", "memory"} <= resources.get(kind, {}).keys() for kind in ("requests", "limits")):
                found.append("a container without requests and limits")
            for variable in container.get("env", ()):
                secret = any(word in variable["name"] for word in ("PASSWORD", "TOKEN", "SECRET", "KEY", "WEBHOOK"))
                if secret and "value" in variable and not variable["name"].endswith("_FILE"):
                    found.append(f"{variable['name']} in plain text")
    return found


def _has_room_for_objects(pod: Manifest) -> bool:
    """Whether /dev/shm takes what Ray's store of objects wants by default; it goes to a disk otherwise."""
    (container,) = pod["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    (volume,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == mount["name"]]
    memory = float(parse_quantity(container["resources"]["limits"].get("memory", 0)))
    wanted = ray_constants.DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * memory
    return volume["medium"] == "Memory" and float(parse_quantity(volume["sizeLimit"])) >= wanted


@functools.cache
def kuberay_schema(kind: str) -> jsonschema.Draft7Validator:
    """KubeRay's schema of a kind, which takes no key that it does not name. Skips the test where it is absent."""
    folder = Path(os.environ.get("KUBERAY_CRDS") or ROOT / ".." / "shared" / "kuberay-crds").resolve()
    path = folder / f"{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's CRDs absent: {path} (set KUBERAY_CRDS to the folder that holds {path.name})")
    definition = yaml.load(path.read_text(), yaml.CSafeLoader)
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    del schema["properties"]["metadata"]  # open here: the Kubernetes API knows it
    schema["properties"]["metadata"] = {}
    close(schema)
    return jsonschema.Draft7Validator(schema)


def close(schema: Any) -> None:
    """Let every object of a schema have no properties but those that it names."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
        for value in schema.values():
            close(value)
    elif isinstance(schema, list):
        for value in schema:
            close(value)


def validate(manifest: Manifest) -> None:
    """Raises for what does not follow the schema of its kind."""
    if manifest["apiVersion"].startswith("ray.io/"):
        kuberay_schema(manifest["kind"]).validate(manifest)
        for pod in pods(manifest):  # KubeRay's own copy of the pod's schema leaves some of it out
            whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod["spec"]}
            kubernetes_validate.validate(whole, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("kuberay", [False, True], ids=["kubernetes", "kuberay"])
def test_manifests_follow_their_schemas_and_our_rules(kuberay: bool) -> None:
    chosen = [m for m in MANIFESTS if m["apiVersion"].startswith("ray.io/") == kuberay]
    assert len(chosen) >= 3
    for manifest in chosen:
        validate(manifest)
        assert troubles(manifest) == [], manifest["metadata"]["name"]


def test_a_misspelt_key_is_refused() -> None:
    job = called("CronJob", "regenerate")
    job["spec"]["concurencyPolicy"] = job["spec"].pop("concurrencyPolicy")
    with pytest.raises(kubernetes_validate.ValidationError, match="concurencyPolicy"):
        validate(job)


def test_a_misspelt_key_is_refused_where_kuberay_reads_it() -> None:
    for place in ((), ("headGroupSpec",), ("headGroupSpec", "template", "spec", "containers", 0)):
        cluster = called("RayCluster", "kgt")
        spot = cluster["spec"]
        for key in place:
            spot = spot[key]
        spot["securtyContext"] = {}
        with pytest.raises(jsonschema.ValidationError, match="securtyContext"):
            validate(cluster)
    job = called("RayJob", "training")
    job["spec"]["entryPoint"] = job["spec"].pop("entrypoint")
    with pytest.raises(jsonschema.ValidationError, match="entryPoint"):
        validate(job)


@pytest.mark.parametrize(
    ("kind", "name", "place", "value", "trouble"),
    [
        ("Deployment", "mlflow", ("containers", 0, "resources", "requests"), {}, "without requests and limits"),
        ("RayCluster", "kgt", ("containers", 0, "resources", "limits"), {"cpu": 1}, "without requests and limits"),
        ("RayCluster", "kgt", ("securityContext", "runAsUser"), 0, "a pod that may be root"),
        ("RayJob", "training", ("securityContext", "runAsNonRoot"), False, "a pod that may be root"),
        ("CronJob", "regenerate", ("containers", 0, "securityContext"), {}, "a container with privileges"),
        ("StatefulSet", "postgres", ("containers", 0, "env", 0), {"name": "PGPASSWORD", "value": "x"}, "in plain text"),
        ("RayCluster", "kgt", ("volumes", 0, "emptyDir", "sizeLimit"), "2Gi", "an object store on a disk"),
    ],
)
def test_the_rules_notice(kind: str, name: str, place: tuple[str | int, ...], value: Any, trouble: str) -> None:
    manifest = called(kind, name)
    spot = next(pods(manifest))["spec"]
    for key in place[:-1]:
        spot = spot[key]
    spot[place[-1]] = value
    assert any(trouble in line for line in troubles(manifest))


@pytest.mark.parametrize(
    ("key", "value", "trouble"),
    [
        ("concurrencyPolicy", "Allow", "a tick beside the one before"),
        ("concurrencyPolicy", None, "a tick beside the one before"),
        ("startingDeadlineSeconds", None, "ticks without a deadline, or without an end in the list"),
        ("failedJobsHistoryLimit", None, "ticks without a deadline, or without an end in the list"),
    ],
)
def test_the_rules_notice_a_careless_schedule(key: str, value: str | None, trouble: str) -> None:
    job = called("CronJob", "regenerate")
    job["spec"].pop(key)
    job["spec"] |= {key: value} if value else {}
    assert troubles(job) == [trouble]


def test_nothing_is_open_to_the_world() -> None:
    service = called("Service", "mlflow")
    assert troubles(service) == []
    service["spec"]["type"] = "LoadBalancer"
    assert troubles(service) == ["a service that is open to the world"]
    cluster = called("RayCluster", "kgt")
    cluster["spec"]["authOptions"]["mode"] = "disabled"
    assert troubles(cluster) == ["Ray without a token"]
    policies = [m for m in MANIFESTS if m["kind"] == "NetworkPolicy"]
    assert called("NetworkPolicy", "nothing")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not [
        peer for m in policies for rule in m["spec"].get("ingress", ()) for peer in rule["from"] if "ipBlock" in peer
    ]


@functools.cache
def labels_of() -> dict[str, dict[str, str]]:
    """The labels of every pod, by a name for it; KubeRay adds its own to those of the cluster."""
    found = {}
    for manifest in MANIFESTS:
        for index, pod in enumerate(pods(manifest)):
            labels = pod["metadata"]["labels"]
            if manifest["kind"] == "RayCluster":
                kind = "worker" if index else "head"
                labels = labels | {"ray.io/cluster": manifest["metadata"]["name"], "ray.io/node-type": kind}
            found[f"{manifest['metadata']['name']}{index or ''}"] = labels
    return found


def allowed(source: str, target: str, port: int) -> bool:
    """Whether policies let a connection of one pod to another's port out, and in."""
    labels = labels_of()

    def chosen(selector: Manifest, pod: str) -> bool:
        return selector.get("matchLabels", {}).items() <= labels[pod].items()

    def opens(policy: Manifest, kind: str, key: str, pod: str, peer: str) -> bool:
        spec = policy["spec"]
        return chosen(spec["podSelector"], pod) and any(
            port in [entry["port"] for entry in rule.get("ports", [{"port": port}])]
            and any(
                chosen(place["podSelector"], peer)
                for place in rule[key]
                if "podSelector" in place and "namespaceSelector" not in place
            )
            for rule in spec.get(kind, ())
        )

    policies = [manifest for manifest in MANIFESTS if manifest["kind"] == "NetworkPolicy"]
    out = any(opens(policy, "egress", "to", source, target) for policy in policies)
    return out and any(opens(policy, "ingress", "from", target, source) for policy in policies)


def test_pods_reach_what_they_need_and_nothing_else() -> None:
    """Every pair of pods, on every port that one of them serves."""
    ports = {"postgres": 5432, "mlflow": 5000, "kgt": 8265}
    reached = {
        (source, target) for source in labels_of() for target, port in ports.items() if allowed(source, target, port)
    }
    nodes = {"kgt", "kgt1", "kgt2"}
    submitters = {"regenerate", "synthesis", "training"}
    assert reached == (
        {("mlflow", "postgres"), ("backup", "postgres"), ("promote", "mlflow")}
        | {(node, "mlflow") for node in nodes}
        | {(source, "kgt") for source in nodes | submitters}
    )


def seconds(duration: str) -> int:
    """Of a duration as `timeout` takes it."""
    return int(duration[:-1]) * {"m": 60, "h": 3600, "d": 86400}[duration[-1]]


def test_deadlines_end_the_job_in_ray_before_those_of_kubernetes_forget_it() -> None:
    """A RayJob's or a Job's own deadline ends what waits here, not the job that Ray has taken."""
    found = 0
    for manifest in MANIFESTS:
        if manifest["kind"] == "RayJob":
            words, outer = manifest["spec"]["entrypoint"].split(), manifest["spec"]["activeDeadlineSeconds"]
        elif manifest["metadata"]["name"] == "regenerate":
            job = manifest["spec"]["jobTemplate"]["spec"]
            words, outer = next(pods(manifest))["spec"]["containers"][0]["args"], job["activeDeadlineSeconds"]
        else:
            continue
        found += 1
        assert words[:3] == ["timeout", "--foreground", "--signal=INT"], "one interruption: a second ends at once"
        assert words[3].startswith("--kill-after=")
        inner = seconds(words[4]) + seconds(words[3].partition("=")[2])
        assert inner < outer
    assert found == 3


def test_a_backup_is_of_the_server_s_own_postgres_and_out_of_mlflow_s_sight() -> None:
    server, backup = (next(pods(called(*of)))["spec"] for of in (("StatefulSet", "postgres"), ("CronJob", "backup")))
    (dump,) = backup["initContainers"]
    assert dump["image"] == server["containers"][0]["image"]
    environment = {variable["name"]: variable for variable in server["containers"][0]["env"]}
    assert dump["command"][-1] == environment["POSTGRES_DB"]["value"]
    assert f"--username={environment['POSTGRES_USER']['value']}" in dump["command"]
    settings = called("ConfigMap", "settings")["data"]
    assert not f"{settings['BACKUP_STORE']}/".startswith(f"{settings['ARTIFACT_STORE']}/")
    assert not f"{settings['ARTIFACT_STORE']}/".startswith(f"{settings['BACKUP_STORE']}/")


def test_commands_are_this_project_s() -> None:
    scripts = {}
    for manifest in MANIFESTS:
        if manifest["kind"] == "RayJob":
            scripts[manifest["metadata"]["name"]] = check_command(manifest["spec"]["entrypoint"], ROOT)
    container = next(pods(called("CronJob", "regenerate")))["spec"]["containers"][0]
    scripts["regenerate"] = check_command(container["args"], ROOT)
    poll = next(pods(called("CronJob", "promote")))["spec"]["containers"][0]
    scripts["promote"] = check_command(poll["command"] + poll["args"], ROOT)
    keep = next(pods(called("CronJob", "backup")))["spec"]["containers"][0]
    scripts["backup"] = check_command(keep["command"] + keep["args"], ROOT)
    program, script, *arguments = container["command"]
    assert (program, check_command([script], ROOT)) == ("python", "infra/submit.py")
    name, options, command = submit.read([word.replace("$(TICK)", "tick-1") for word in arguments] + container["args"])
    assert (name, options.tick, options.upload, command) == ("shards", "tick-1", False, container["args"])
    assert scripts == {
        "synthesis": "pipelines/synthesize.py",
        "training": "training/run.py",
        "regenerate": "pipelines/regenerate.py",
        "promote": "training/promote.py",
        "backup": "infra/backup.py",
    }
    written = "\n".join(path.read_text() for path in FOLDER.glob("**/*.yaml"))
    settings = called("ConfigMap", "settings")["data"]
    referred = {name for name in settings if f"${name}" in written or f"$({name})" in written}
    used = {"MLFLOW_TRACKING_URI", "ARTIFACT_STORE", "RAY_JOB_STOP_WAIT_TIME_S"}  # read where they are used
    assert referred == settings.keys() - used
    assert settings["RAY_JOB_STOP_WAIT_TIME_S"] == "600"


def test_mlflow_is_started_as_everywhere(tmp_path: Path) -> None:
    """By the script that tests/infra/test_mlflow.py runs for real, with what it asks for."""
    container = next(pods(called("Deployment", "mlflow")))["spec"]["containers"][0]
    assert container["command"] == ["/opt/kgt/infra/mlflow_server.sh"]
    given = {variable["name"]: variable.get("value", "a-secret") for variable in container["env"]}
    settings = called("ConfigMap", "settings")["data"]
    (tmp_path / "mlflow").write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
    (tmp_path / "mlflow").chmod(0o755)
    started = subprocess.run(
        [ROOT / "infra" / "mlflow_server.sh"],
        env=settings | given | {"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    program, *arguments = started.stdout.splitlines()
    assert program == "server"
    options = mlflow.cli.server.make_context("mlflow", arguments).params
    assert options["app_name"] == "basic-auth"
    assert "a-secret" not in started.stdout
    assert settings["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert "mlflow:5000" in options["allowed_hosts"].split(",")


def test_pods_that_reach_buckets_have_a_role_of_their_own() -> None:
    """On EKS: that of `infra/aws/roles.yaml` for their service account."""
    template, _ = cfnlint.decode.decode(str(ROOT / "infra" / "aws" / "roles.yaml"))
    roles = {
        resource["Properties"]["ServiceAccount"]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::EKS::PodIdentityAssociation"
    }
    accounts = {
        pod["spec"]["serviceAccountName"]
        for manifest in MANIFESTS
        for pod in pods(manifest)
        if pod["metadata"]["labels"].get("reaches") == "buckets"
    }
    assert accounts == roles == {"mlflow", "pipelines", "promoter", "ray-head", "training"}
    poll = next(pods(called("CronJob", "promote")))
    assert poll["spec"]["serviceAccountName"] == "promoter"


def test_ray_is_the_ray_that_is_installed() -> None:
    assert called("RayCluster", "kgt")["spec"]["rayVersion"] == ray.__version__


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is absent: overlays cannot be built")
def test_overlays_are_whole() -> None:
    for overlay in OVERLAYS:
        built = subprocess.run(["kubectl", "kustomize", FOLDER / "overlays" / overlay], capture_output=True, check=True)
        manifests = [manifest for manifest in yaml.safe_load_all(built.stdout) if manifest]
        for manifest in manifests:
            validate(manifest)
            assert troubles(manifest) == []
        images = [c["image"] for manifest in manifests for pod in pods(manifest) for c in containers(pod)]
        untagged = [image for image in images if ":" not in image]
        assert len(images) >= 2
        assert not untagged, overlay
        if not overlay.endswith("jobs"):
            accounts = {m["metadata"]["name"] for m in manifests if m["kind"] == "ServiceAccount"}
            used = {pod["spec"].get("serviceAccountName", "") for m in manifests for pod in pods(m)} - {""}
            assert used == accounts
