"""The image: hadolint, rules of ours, and locks that name everything that is installed."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kgt.attention import sparse
from kgt.config import PRESETS, KGTConfig, preset
from kgt.errors import UserError
from kgt.tasks import TASKS
from tests.infra.commands import check_command
from training.config import read_configs

LOCKS = ("build", "cpu", "cuda", "mlflow")


def hadolint(text: str) -> str:
    """What hadolint has to say of a Dockerfile."""
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    return done.stdout


def troubles(text: str) -> list[str]:
    """What hadolint allows in a Dockerfile and this project does not."""
    found = []
    lines = re.sub(r"\\\n", " ", text).splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    stages: dict[str, list[list[str]]] = {}
    for word in words:
        if word[0] == "FROM":
            stages[word[3]] = [word]
        elif stages:
            stages[list(stages)[-1]].append(word)
    for name in ("cpu", "cuda", "mlflow"):
        users = [word[1] for word in stages[name] if word[0] == "USER"]
        if not users or users[-1].partition(":")[0] in ("0", "root"):
            found.append(f"{name} runs as root")
    for word in words:
        line = " ".join(word)
        if word[0] == "RUN" and re.search(r"pip install.* -r ", line) and "--require-hashes" not in line:
            found.append("packages without hashes")
        if word[0] in ("ENV", "ARG", "COPY") and re.search(r"PASSWORD|SECRET|_KEY|AUTH_TOKEN|\.env|credentials", line):
            found.append(f"a secret in a layer: {line}")
        if word[0] == "ADD":
            found.append("something from outside")
    return found


@pytest.fixture
def dockerfile(root: Path) -> str:
    return (root / "infra" / "Dockerfile").read_text()


def test_the_dockerfile_is_clean(dockerfile: str) -> None:
    assert hadolint(dockerfile) == ""
    assert troubles(dockerfile) == []


@pytest.mark.parametrize(
    ("here", "planted", "trouble"),
    [
        ("USER 1000:1000\nRUN infra/warm.sh", "RUN infra/warm.sh", "cpu runs as root"),
        ("USER 1000:1000\nEXPOSE", "USER root\nEXPOSE", "mlflow runs as root"),
        (" --require-hashes --no-build-isolation", " --no-build-isolation", "packages without hashes"),
        ("WORKDIR", "ENV MLFLOW_TRACKING_PASSWORD=x\nWORKDIR", "a secret in a layer: ENV MLFLOW_TRACKING_PASSWORD=x"),
        ("WORKDIR", "COPY .env /\nWORKDIR", "a secret in a layer: COPY .env /"),
    ],
)
def test_the_rules_notice(here: str, planted: str, trouble: str, dockerfile: str) -> None:
    assert here in dockerfile
    assert trouble in troubles(dockerfile.replace(here, planted))


def test_hadolint_notices(dockerfile: str) -> None:
    assert "DL3002" in hadolint(dockerfile.replace("USER 1000:1000\nEXPOSE", "USER root\nEXPOSE"))
    assert "DL3008" in hadolint(dockerfile.replace("g++=4:12.*", "g++"))


def test_nothing_enters_the_image_but_what_is_named(root: Path) -> None:
    first, *named = [
        line
        for line in (root / "infra" / "Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    for line in named:
        assert line == "**/__pycache__" or list(root.glob(line.removeprefix("!"))), line


def warmed(root: Path) -> list[list[str]]:
    """The words of the project's commands that the build runs."""
    lines = (root / "infra" / "warm.sh").read_text().splitlines()
    return [shlex.split(line) for line in lines if line.startswith("python ")]


def test_the_build_runs_every_task_s_degradation_and_compiles_every_preset_s_attention(root: Path) -> None:
    commands = warmed(root)
    assert [check_command(words, root) for words in commands][:2] == ["pipelines/synthesize.py", "training/run.py"]
    assert "task=all" in commands[0]
    trained = [config for words in commands[1:] for config in read_configs(words[2:], "")]
    widths = {width for config in trained for width in widths_of(preset(config.model, config.task, scale(config.task)))}
    made = [(name, task) for name in PRESETS for task in TASKS if is_made_for(name, task)]
    assert widths == {width for name, task in made for width in widths_of(preset(name, task, scale(task)))}


@pytest.mark.slow  # minutes: synthesis of six tasks, two trainings
def test_what_the_build_runs_works_and_is_kept(root: Path, tmp_path: Path) -> None:
    """With a user's folders, and nothing of this environment."""
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    environment |= {
        "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run([root / "infra" / "warm.sh"], cwd=root, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    kept = [path.name for path in (tmp_path / "numba").rglob("*.nbc")]
    for kernel in ("_forward_kernel", "_backward_kernel"):
        assert len([name for name in kept if kernel in name]) == 2, "one a width of heads"


def widths_of(config: KGTConfig) -> set[int]:
    """Of a model's heads, as Numba's kernels have them."""
    dims = [config.dim * 2**level for level in range(len(config.layers))] if config.shape == "u" else [config.dim]
    return {sparse._padded(dim // heads) for dim, heads in zip(itertools.cycle(dims), config.heads, strict=False)}


def is_made_for(name: str, task: str) -> bool:
    try:
        preset(name, task, scale(task))
    except UserError:
        return False
    return True


def scale(task: str) -> int:
    return 2 if task == "sr" else 1


def read_lock(root: Path, name: str) -> dict[str, str]:
    """Versions by package. Every one is exact and has a hash."""
    text = (root / "infra" / "locks" / f"{name}.txt").read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.M)) if entry.strip()]
    versions = {}
    for entry in entries:
        matched = re.fullmatch(r"([\w.-]+)==(\S+)( \\\n    --hash=sha256:[0-9a-f]{64})+\n?", entry)
        assert matched, entry.splitlines()[0]
        versions[canonicalize_name(matched[1])] = matched[2]
    return versions


@pytest.mark.parametrize("name", LOCKS)
def test_locks_agree_with_the_versions_that_are_tested(name: str, root: Path) -> None:
    lock = read_lock(root, name)
    pins = (line.partition("==") for line in (root / "constraints.txt").read_text().splitlines() if "==" in line)
    tested = {canonicalize_name(package): version for package, _, version in pins}
    differing = {
        package: version
        for package, version in lock.items()
        if package in tested and version.partition("+")[0] != tested[package]
    }
    assert differing == {}


def test_locks_hold_everything_the_platform_needs(root: Path) -> None:
    cpu, cuda = read_lock(root, "cpu"), read_lock(root, "cuda")
    for line in requires("kgt"):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": "platform"}):
            assert requirement.specifier.contains(cpu[canonicalize_name(requirement.name)]), line
    assert cpu["torch"] == f"{cuda['torch']}+cpu"
    only_cuda = cuda.keys() - cpu.keys()
    assert cpu.keys() <= cuda.keys()
    assert {"triton", "nvidia-nccl-cu13"} <= only_cuda
    assert all(name == "triton" or name.startswith(("nvidia-", "cuda-")) for name in only_cuda)


def test_a_lock_without_a_hash_is_noticed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "infra" / "locks").mkdir(parents=True)
    lines = (root / "infra" / "locks" / "build.txt").read_text().splitlines()
    (tmp_path / "infra" / "locks" / "build.txt").write_text(lines[2].removesuffix(" \\") + "\n")
    with pytest.raises(AssertionError, match="setuptools=="):
        read_lock(tmp_path, "build")
