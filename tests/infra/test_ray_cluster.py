"""`ray up`: Ray's own schema, and what it would start in an account that has the stacks of `infra/aws`."""

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.infra.account import Account, create_stacks


@pytest.fixture
def config(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "ray_cluster.yaml").read_text())


@pytest.fixture
def ec2(account: Account) -> Any:
    """EC2 of an empty account."""
    return boto3.client("ec2")


def start_one_of_each(config: dict[str, Any], ec2: Any) -> dict[str, dict[str, Any]]:
    """What Ray starts for every node type: the instances as EC2 describes them."""
    resolved = AWSNodeProvider.bootstrap_config(prepare_config(copy.deepcopy(config)))
    provider = AWSNodeProvider(resolved["provider"], resolved["cluster_name"])
    started = {}
    for name, kind in resolved["available_node_types"].items():
        (identity,) = provider.create_node(copy.deepcopy(kind["node_config"]), {"ray-user-node-type": name}, 1)
        (reservation,) = ec2.describe_instances(InstanceIds=[identity])["Reservations"]
        started[name] = reservation["Instances"][0]
    return started


def test_ray_s_schema_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


@pytest.mark.parametrize("place", [(), ("auth",), ("docker",), ("available_node_types", "training")])
def test_ray_s_schema_refuses_a_misspelt_key(place: tuple[str, ...], config: dict[str, Any]) -> None:
    spot = config
    for key in place:
        spot = spot[key]
    key = next(iter(spot))
    spot[f"{key}x"] = copy.deepcopy(spot[key])
    with pytest.raises(jsonschema.ValidationError, match=f"{key}x"):
        validate_config(prepare_config(config))


def unknown_provider_settings(config: dict[str, Any]) -> set[str]:
    """Ray's schema names them, but takes others as well."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    return set(config["provider"]) - set(schema["properties"]["provider"]["properties"])


def test_settings_of_the_provider_are_known(config: dict[str, Any]) -> None:
    assert not unknown_provider_settings(config)
    config["provider"]["use_internal_ip"] = config["provider"].pop("use_internal_ips")
    validate_config(prepare_config(config))
    assert unknown_provider_settings(config) == {"use_internal_ip"}


def test_nodes_are_private_encrypted_and_without_keys(config: dict[str, Any], ec2: Any, root: Path) -> None:
    create_stacks(root)
    nodes = start_one_of_each(config, ec2)
    assert sorted(nodes) == ["head", "pipelines", "training"]
    for name, node in nodes.items():
        assert "PublicIpAddress" not in node, name
        assert node["MetadataOptions"]["HttpTokens"] == "required", name
        assert node["IamInstanceProfile"]["Arn"].endswith(f"/kgt-{name}")
        volumes = [mapping["Ebs"]["VolumeId"] for mapping in node["BlockDeviceMappings"]]
        assert all(volume["Encrypted"] for volume in ec2.describe_volumes(VolumeIds=volumes)["Volumes"]), name
    assert {name for name, node in nodes.items() if node.get("InstanceLifecycle") == "spot"} == {"pipelines"}
    for group in ec2.describe_security_groups()["SecurityGroups"]:
        assert not [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]], group


def test_groups_grow_from_nothing_and_nodes_without_work_are_given_back(config: dict[str, Any]) -> None:
    assert 0 < config["idle_timeout_minutes"] <= 30
    groups = {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}
    assert {kind["min_workers"] for kind in groups.values()} == {0}
    assert sum(kind["max_workers"] for kind in groups.values()) <= config["max_workers"]


def test_code_asks_for_buckets_in_the_cluster_s_region(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    variables = [option.removeprefix("--env ") for option in config["docker"]["run_options"] if "AWS_" in option]
    for name, value in (variable.split("=") for variable in variables):
        monkeypatch.setenv(name, value)
    assert boto3.session.Session().region_name == config["provider"]["region"]


def test_resources_are_those_of_the_machines(config: dict[str, Any], ec2: Any) -> None:
    for name, kind in config["available_node_types"].items():
        (machine,) = ec2.describe_instance_types(InstanceTypes=[kind["node_config"]["InstanceType"]])["InstanceTypes"]
        has = {"CPU": machine["VCpuInfo"]["DefaultVCpus"]}
        has |= {"GPU": sum(gpu["Count"] for gpu in machine["GpuInfo"]["Gpus"])} if "GpuInfo" in machine else {}
        assert kind["resources"] == ({"CPU": 0} if name == "head" else has)


def test_without_the_stacks_nothing_starts(config: dict[str, Any], ec2: Any) -> None:
    """Ray would make a security group that lets the world in on port 22; the launch template is asked for first."""
    with pytest.raises(botocore.exceptions.ClientError, match="LaunchTemplate"):
        start_one_of_each(config, ec2)
    assert {group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]} == {"default"}


def test_ec2_refuses_a_misspelt_setting_of_a_machine(config: dict[str, Any], ec2: Any, root: Path) -> None:
    """Ray's schema takes anything there."""
    create_stacks(root)
    node = config["available_node_types"]["pipelines"]["node_config"]
    node["MetadataOption"] = node.pop("MetadataOptions")
    with pytest.raises(botocore.exceptions.ParamValidationError, match="MetadataOption"):
        start_one_of_each(config, ec2)


def test_every_node_wants_the_token_and_the_dashboard_stays_on_loopback(config: dict[str, Any]) -> None:
    starts = [config[f"{kind}_start_ray_commands"] for kind in ("head", "worker")]
    assert all(command.startswith("RAY_AUTH_MODE=token ray ") for commands in starts for command in commands)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "--env RAY_JOB_STOP_WAIT_TIME_S=600" in config["docker"]["run_options"], "a checkpoint takes more than 3 s"
    assert "--dashboard-host=127.0.0.1" in starts[0][-1]
    assert "/home/kgt/.ray/auth_token" in config["file_mounts"]


LONE_HEAD = """
from ray.cluster_utils import Cluster
import ray
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
ray.init(address=nodes.address)
from kgt.errors import UserError
from pipelines import cluster
assert not cluster.single_machine()
try:
    cluster.refuse_local_state("sqlite:////x/mlflow.db")
except UserError as error:
    print(error)
ray.shutdown()
nodes.shutdown()
"""


def test_a_head_alone_that_takes_no_work_is_a_cluster(
    run_script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Groups grow from nothing: what may run is not judged by the head, or nothing would ever start."""
    done = run_script(LONE_HEAD)
    assert done.returncode == 0, done.stderr
    assert "the cluster grows: start `mlflow server`" in done.stdout
