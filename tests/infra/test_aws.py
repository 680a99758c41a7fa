"""Buckets, roles and nodes: cfn-lint, rules of ours, and the project's own commands under the roles that they get."""

import copy
import fnmatch
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

PRIVATE = dict.fromkeys(("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True)
"""All four: each closes another way to make a bucket public."""

WITHOUT_TLS = {"Bool": {"aws:SecureTransport": "false"}}

ANYBODY = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}


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
            if properties.get("PublicAccessBlockConfiguration") != PRIVATE or "AccessControl" in properties:
                found.append(f"{name} may be made public")
            if properties.get("VersioningConfiguration") != {"Status": "Enabled"}:
                found.append(f"{name} forgets what is overwritten")
            if "BucketEncryption" not in properties:
                found.append(f"{name} is not encrypted")
            if resource.get("DeletionPolicy") != "Retain":
                found.append(f"{name} is lost with its stack")
            rules = properties.get("LifecycleConfiguration", {}).get("Rules", [])
            if not any(rule["Status"] == "Enabled" and "NoncurrentVersionExpiration" in rule for rule in rules):
                found.append(f"{name} keeps what was deleted for ever")
            if not any(rule.get("Condition") == WITHOUT_TLS for rule in _denials(template, name, "s3:*")):
                found.append(f"{name} is read over plain HTTP")
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
        if kind in ("AWS::S3::BucketPolicy", "AWS::IAM::Role", "AWS::ECR::Repository"):
            found += [f"{name} lets everyone {action}" for action in _allowed_to_everyone(properties)]
        found += [f"{name} holds a secret" for key in ("Password", "SecretAccessKey") if key in json.dumps(properties)]
    return found


def _denials(template: Template, bucket: str, action: str) -> list[Template]:
    """The statements of a bucket's policies that deny it to all the world."""
    policies = [one["Properties"] for one in template["Resources"].values() if one["Type"] == "AWS::S3::BucketPolicy"]
    return [
        statement
        for policy in policies
        for statement in policy["PolicyDocument"]["Statement"]
        if policy["Bucket"] == {"Ref": bucket}
        and (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", action)
    ]


def _allowed_to_everyone(properties: Template) -> list[str]:
    """What a resource's policy allows to all the world; conditions do not count, as they can be weak."""
    documents = ("PolicyDocument", "AssumeRolePolicyDocument", "RepositoryPolicyText")
    statements = [statement for name in documents for statement in _listed(properties.get(name, {}).get("Statement"))]
    return [
        action
        for statement in statements
        if statement["Effect"] == "Allow" and _is_everyone(statement.get("Principal", "*"))
        for action in _listed(statement.get("Action", "all but NotAction"))
    ]


def _is_everyone(principal: Any) -> bool:
    named = principal.values() if isinstance(principal, dict) else [principal]
    return any("*" in _listed(value) for value in named)


def _listed(value: Any) -> list[Any]:
    """A policy's lists of one may stand without their brackets."""
    return value if isinstance(value, list) else [] if value is None else [value]


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
        *[
            ("storage", ("Runs", "Properties", "PublicAccessBlockConfiguration"), flags, "Runs may be made public")
            for flag in PRIVATE
            for flags in (PRIVATE | {flag: False}, {other: True for other in PRIVATE if other != flag})
        ],
        ("storage", ("Runs", "Properties", "AccessControl"), "PublicRead", "Runs may be made public"),
        *[
            (
                "storage",
                ("ArtifactsPolicy", "Properties", "PolicyDocument", "Statement", 0),
                ANYBODY | {"Principal": principal} | more,
                "ArtifactsPolicy lets everyone s3:GetObject",
            )
            for principal in ("*", {"AWS": "*"}, {"AWS": ["arn:aws:iam::123456789012:root", "*"]})
            for more in ({}, {"Condition": {"Bool": {"aws:SecureTransport": "true"}}})
        ],
        (
            "roles",
            ("Training", "Properties", "AssumeRolePolicyDocument", "Statement", 0, "Principal"),
            {"AWS": "*"},
            "Training lets everyone sts:AssumeRole",
        ),
        (
            "nodes",
            ("Registry", "Properties", "RepositoryPolicyText"),
            {"Statement": {"Effect": "Allow", "Action": "ecr:BatchGetImage", "Principal": "*"}},
            "Registry lets everyone ecr:BatchGetImage",
        ),
        ("storage", ("Runs", "Properties", "VersioningConfiguration"), {}, "Runs forgets what is overwritten"),
        ("storage", ("Artifacts", "DeletionPolicy"), "Delete", "Artifacts is lost with its stack"),
        (
            "storage",
            ("Shards", "Properties", "LifecycleConfiguration", "Rules", 0, "Status"),
            "Disabled",
            "Shards keeps what was deleted for ever",
        ),
        (
            "storage",
            ("RunsPolicy", "Properties", "PolicyDocument", "Statement", 0, "Effect"),
            "Allow",
            "Runs is read over plain HTTP",
        ),
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
def test_the_rules_notice(name: str, place: tuple[str | int, ...], value: Any, trouble: str, root: Path) -> None:
    template = copy.deepcopy(read(root, name))
    spot = template["Resources"]
    for key in place[:-1]:
        spot = spot[key]
    spot[place[-1]] = value
    assert trouble in troubles(template)


def is_put_refused(template: Template, key: str, conditions: set[str]) -> bool:
    """Whether the policy of the bucket of shards denies a write of that key by a request with these conditions."""
    return any(
        fnmatch.fnmatchcase(f"${{Shards.Arn}}/{key}", statement["Resource"]["Fn::Sub"])
        and all((name in conditions) != (absent == "true") for name, absent in statement["Condition"]["Null"].items())
        for statement in _denials(template, "Shards", "s3:PutObject")
    )


def test_the_bucket_of_shards_takes_manifests_and_current_by_conditional_writes_alone(root: Path) -> None:
    """Simulated accounts do not look at the policies of buckets."""
    template = read(root, "storage")
    manifest, current = "shards/denoise/versions/v000001.json", "shards/denoise/CURRENT"
    assert is_put_refused(template, manifest, set())
    assert is_put_refused(template, manifest, {"s3:if-match"})
    assert not is_put_refused(template, manifest, {"s3:if-none-match"})
    assert is_put_refused(template, current, set())
    assert not is_put_refused(template, current, {"s3:if-match"})
    assert not is_put_refused(template, current, {"s3:if-none-match"})
    assert not is_put_refused(template, "shards/denoise/pool/train-0.tar", set())


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
runs.put("denoise/init.safetensors", b"x")
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


PROMOTING = """
import sys
from kgt.errors import UserError
from pipelines.sources import list_sources
from pipelines.storage import check_writable, open_store
from training.lock import held, of_promotion
clean, shards, runs = sys.argv[1:]
(photograph, *_) = list_sources(clean, licence="")
assert photograph.read()
store = open_store(shards)
for _ in range(2):
    with held(of_promotion(store, "kgt-denoise")) as lock:
        lock.renew()
assert store.get("denoise/versions/v000001.json")
pin = "denoise/pins/v000001/kgt-denoise-v1.json"
store.put(pin, b"x")
store.delete(pin)
assert open_store(runs).get("denoise/init.safetensors") == b"x"
for forbidden in (
    lambda: store.put("denoise/CURRENT", b"x"),
    lambda: store.put("denoise/pool/train-0.tar", b"x"),
    lambda: store.delete("locks/kgt-denoise.json"),
    lambda: store.delete("denoise/versions/v000001.json"),
    lambda: open_store(clean).put("new.png", b"x"),
    lambda: list(open_store(runs).list("")),
    lambda: open_store(runs).put("denoise/init.safetensors", b"y"),
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
    for role, script, denied in (("pipelines", MAKING, 3), ("training", TRAINING, 3), ("promoter", PROMOTING, 7)):
        said = run_as(role, root, account, "-c", script, *places)
        assert said.count("AccessDenied") == denied, said


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
