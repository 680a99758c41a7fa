"""Buckets, roles and nodes: cfn-lint, rules of ours, and the project's own commands under the roles that they get."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from cfnlint import decode
from cfnlint.api import lint

from pipelines.sample import sample_photographs
from tests.infra.account import CLEAN_IMAGES, Account, create_stacks

TEMPLATES = ("storage", "roles", "nodes")

Template = dict[str, Any]


def read(root: Path, name: str) -> Template:
    template, _ = decode.decode(str(root / "infra" / "aws" / f"{name}.yaml"))
    return json.loads(json.dumps(template))


def troubles(template: Template) -> list[str]:
    """What cfn-lint allows and this project does not."""
    found = []
    for name, resource in template["Resources"].items():
        properties = resource["Properties"]
        kind = resource["Type"]
        if kind == "AWS::S3::Bucket":
            if set(properties.get("PublicAccessBlockConfiguration", {}).values()) != {True}:
                found.append(f"{name} may be made public")
            if properties.get("VersioningConfiguration") != {"Status": "Enabled"}:
                found.append(f"{name} forgets what is overwritten")
            if "BucketEncryption" not in properties:
                found.append(f"{name} is not encrypted")
            if resource.get("DeletionPolicy") != "Retain":
                found.append(f"{name} is lost with its stack")
        rules = properties.get("SecurityGroupIngress", []) if kind == "AWS::EC2::SecurityGroup" else []
        rules += [properties] if kind == "AWS::EC2::SecurityGroupIngress" else []
        if any({"CidrIp", "CidrIpv6"} & rule.keys() for rule in rules):
            found.append(f"{name} lets addresses in")
        if kind == "AWS::EC2::LaunchTemplate":
            data = properties["LaunchTemplateData"]
            if data.get("MetadataOptions", {}).get("HttpTokens") != "required":
                found.append(f"{name} gives its role's keys to any request")
            if any(card.get("AssociatePublicIpAddress") is not False for card in data["NetworkInterfaces"]):
                found.append(f"{name} has a public address")
        if kind == "AWS::IAM::ManagedPolicy":
            for statement in properties["PolicyDocument"]["Statement"]:
                actions = statement["Action"]
                if any("*" in action for action in ([actions] if isinstance(actions, str) else actions)):
                    found.append(f"{name} allows {actions}")
                if statement["Resource"] == "*" and not _has_no_resource(actions):
                    found.append(f"{name} allows {actions} everywhere")
        found += [f"{name} holds a secret" for key in ("Password", "SecretAccessKey") if key in json.dumps(properties)]
    return found


def _has_no_resource(actions: str | list[str]) -> bool:
    """Describing machines, and logging in to the registry, are allowed whole or not at all."""
    names = [actions] if isinstance(actions, str) else actions
    return all(name.startswith("ec2:Describe") or name == "ecr:GetAuthorizationToken" for name in names)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_clean(name: str, root: Path) -> None:
    assert lint((root / "infra" / "aws" / f"{name}.yaml").read_text(), regions=["us-west-2"]) == []
    assert troubles(read(root, name)) == []


def test_cfn_lint_refuses_a_misspelt_key(root: Path) -> None:
    text = (root / "infra" / "aws" / "storage.yaml").read_text()
    (first, *_) = lint(text.replace("BucketEncryption", "BucketEncrypion", 1), regions=["us-west-2"])
    assert "BucketEncrypion" in first.message


@pytest.mark.parametrize(
    ("name", "place", "value", "trouble"),
    [
        ("storage", ("Shards", "Properties", "PublicAccessBlockConfiguration"), {}, "Shards may be made public"),
        ("storage", ("Runs", "Properties", "VersioningConfiguration"), {}, "Runs forgets what is overwritten"),
        ("storage", ("Artifacts", "DeletionPolicy"), "Delete", "Artifacts is lost with its stack"),
        (
            "nodes",
            ("Nodes", "Properties", "SecurityGroupIngress"),
            [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "0.0.0.0/0"}],
            "Nodes lets addresses in",
        ),
        ("nodes", ("AmongNodesIn", "Properties", "CidrIp"), "0.0.0.0/0", "AmongNodesIn lets addresses in"),
        (
            "nodes",
            ("Node", "Properties", "LaunchTemplateData", "MetadataOptions"),
            {"HttpTokens": "optional"},
            "Node gives its role's keys to any request",
        ),
        (
            "roles",
            ("MakeShards", "Properties", "PolicyDocument", "Statement"),
            [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
            "MakeShards allows s3:*",
        ),
    ],
)
def test_the_rules_notice(name: str, place: tuple[str, ...], value: Any, trouble: str, root: Path) -> None:
    template = copy.deepcopy(read(root, name))
    spot = template["Resources"]
    for key in place[:-1]:
        spot = spot[key]
    spot[place[-1]] = value
    assert trouble in troubles(template)


@pytest.fixture
def stacks(root: Path, account: Account) -> dict[str, str]:
    """The stacks' outputs, in an account with two photographs."""
    outputs = create_stacks(root)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=CLEAN_IMAGES, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    for photograph in sample_photographs("train")[:2]:
        s3.upload_file(str(photograph), CLEAN_IMAGES, f"photographs/{photograph.name}")
    return outputs


def keys_of(role: str) -> dict[str, str]:
    """A session of the role, for the environment of a command."""
    arn = f"arn:aws:iam::123456789012:role/kgt-{role}"
    keys = boto3.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": keys["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
        "AWS_SESSION_TOKEN": keys["SessionToken"],
    }


MAKING = """
import sys
from kgt.errors import UserError
from pipelines.sources import list_sources
from pipelines.storage import Absent, check_writable, open_store
clean, shards, runs = sys.argv[1:]
(photograph, *_) = list_sources(clean, licence="")
assert photograph.read()
store = open_store(shards)
check_writable(store)
store.put("denoise/versions/v000001.json", b"a manifest", condition=Absent())
assert store.head("denoise/versions/v000002.json") is None
for forbidden in (
    lambda: open_store(clean).put("new.png", b"x"),
    lambda: open_store(clean).delete(photograph.name),
    lambda: check_writable(open_store(runs)),
):
    try:
        forbidden()
    except UserError as error:
        print(error)
"""

TRAINING = """
import sys
from kgt.errors import UserError
from pipelines.storage import check_writable, open_store
shards, runs = map(open_store, sys.argv[2:])
assert shards.get("denoise/versions/v000001.json")
assert list(shards.list("denoise/versions/"))
pin = "denoise/pins/v000001/run.json"
shards.put(pin, b"x")
shards.delete(pin)
check_writable(runs)
for forbidden in (
    lambda: check_writable(shards),
    lambda: shards.put("denoise/CURRENT", b"x"),
    lambda: shards.delete("denoise/versions/v000001.json"),
):
    try:
        forbidden()
    except UserError as error:
        print(error)
"""


def run_as(role: str, root: Path, account: Account, *command: str) -> str:
    """The output of a Python command with the keys of a role, in the account that allows what its policies allow."""
    environment = os.environ | keys_of(role) | {"PYTHONPATH": str(root)}
    account.check_permissions(True)
    done = subprocess.run(
        [sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    account.check_permissions(False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_roles_allow_what_the_code_does_and_no_more(root: Path, account: Account, stacks: dict[str, str]) -> None:
    places = [f"s3://{CLEAN_IMAGES}/photographs", f"s3://{stacks['Shards']}/shards", f"s3://{stacks['Runs']}/first"]
    for role, script in (("pipelines", MAKING), ("training", TRAINING)):
        said = run_as(role, root, account, "-c", script, *places)
        assert said.count("AccessDenied") == 3, said


@pytest.mark.slow
def test_shards_are_made_and_pruned_under_the_role_of_pipelines(
    root: Path, account: Account, stacks: dict[str, str]
) -> None:
    settings = ["task=denoise", "crop=64", "crops=2", "shards_min=1", "keep=1"]
    places = [f"source=s3://{CLEAN_IMAGES}/photographs", f"store=s3://{stacks['Shards']}/shards"]
    for _ in range(2):
        run_as("pipelines", root, account, "pipelines/regenerate.py", *places, *settings)
    found = boto3.client("s3").list_objects_v2(Bucket=stacks["Shards"], Prefix="shards/denoise/versions/")
    assert [entry["Key"].rpartition("/")[2] for entry in found["Contents"]] == ["v000002.json"]
