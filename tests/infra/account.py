"""A simulated AWS account, and the stacks of `infra/aws` in it."""

import urllib.request
from pathlib import Path

import boto3

CLEAN_IMAGES = "clean-images"


class Account:
    """Where it answers, and whether it checks who asks for what."""

    def __init__(self, url: str) -> None:
        self.url = url

    def reset(self) -> None:
        """Forget everything, and let everyone do everything."""
        self.check_permissions(False)
        self._post("reset", "")

    def check_permissions(self, wanted: bool) -> None:
        """From now on, allow only what a policy allows."""
        self._post("reset-auth", "0" if wanted else "inf")

    def _post(self, name: str, text: str) -> None:
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/{name}", text.encode(), headers)).close()


def create_stacks(root: Path) -> dict[str, str]:
    """Make storage, roles and nodes, as infra/README.md says; the outputs of all three.

    Bucket policies and rules of egress are not simulated.
    """
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.1.0/24")["Subnet"]["SubnetId"]
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    boto3.client("ssm").put_parameter(Name="/machine-image", Value=image, Type="String")
    parameters = {
        "storage": {},
        "roles": {"CleanImages": CLEAN_IMAGES},
        "nodes": {"Vpc": vpc, "Subnet": subnet, "MachineImage": "/machine-image"},
    }
    outputs = {}
    for name, values in parameters.items():
        text = (root / "infra" / "aws" / f"{name}.yaml").read_text()
        text = text.replace(
            "    Default: /aws/service/deeplearning", "    # /aws/service/deeplearning"
        )  # not simulated
        formation = boto3.client("cloudformation")
        formation.create_stack(
            StackName=name,
            TemplateBody=text,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        (stack,) = formation.describe_stacks(StackName=name)["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        outputs |= {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}
    return outputs
