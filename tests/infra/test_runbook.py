"""The runbook and the other documents: their commands, files and lines of logs are there as they are written."""

import ast
import functools
import itertools
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import costs, mlflow_account, submit
from pipelines import datasets
from pipelines.options import parse
from tests.infra.commands import check_command
from tests.infra.manifests import FOLDER, MANIFESTS
from training import lineage
from training.config import read_configs

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "infra/README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]

OTHERS = {
    *("No available node types can fulfill …", "infeasible resource requests"),
    *("AlreadyExists", "DeadlineExceeded", "Failed"),
}
"""Words of Ray and Kubernetes."""

VERBS = ("create secret generic", "create namespace", "create job", "rollout restart")
"""Of kubectl, where they are more than a word."""


def blocks(text: str) -> Iterator[str]:
    """The lines of the blocks of code, whole where one ends with a backslash; 1 stands for what a shell puts in."""
    for block in re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"\$\([^)]*\)", "1", line.removeprefix("$ ").strip())


def commands(document: str) -> list[list[str]]:
    """The words of every command of the project that a document gives, in a block or in a line."""
    text = (ROOT / document).read_text()
    lines = [*blocks(text), *re.findall(r"`(python [^`]+\.py[^`]*)`", text)]
    parts = [part for line in lines for part in re.split(r" (?:\||&&) ", line)]
    return [shlex.split(part, comments=True) for part in parts if re.search(r"^(.* )?python \S+\.py", part)]


def check(words: list[str]) -> None:
    """Raises UserError or AssertionError for a command that the project would refuse."""
    at = next(index for index, word in enumerate(words) if word.endswith(".py"))
    script, rest = words[at], [word for word in words[at + 1 :] if not re.fullmatch(r"…|\$\w+", word)]
    rest = list(itertools.takewhile(lambda word: word not in ("<", ">", "2>"), rest))
    rest = ["task=all" if word in ("task=…", "task=TASK") else word for word in rest]
    rest = [word.replace("role=ROLE", "role=train") for word in rest]
    assert (ROOT / script).is_file(), script
    if "--help" in rest:
        return
    if script == "infra/submit.py":
        *_, command = submit.read(rest)
        check(command)
    elif script == "infra/mlflow_account.py":
        parse(mlflow_account.Options, rest[1:], "")
    elif script == "infra/costs.py":
        before, _, after = " ".join(rest).partition("-- ")
        parse(costs.Options, before.split(), "")
        read_configs(after.split(), "")
    elif script == "pipelines/datasets.py":
        assert not rest or rest[0] in datasets.VERBS, rest[0]
        parse(datasets.Options, rest[1:], "")
    elif script == "training/lineage.py":
        parse(lineage.Options, rest[1:], "")
    elif script.startswith("tests/benchmarks/"):
        said = (ROOT / script).read_text() + (ROOT / "tests" / "benchmarks" / "harness.py").read_text()
        for word in rest:
            assert not word.startswith("--") or f'"{word}"' in said, word
    else:
        check_command([script, *rest], ROOT)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_one_that_the_project_takes(document: str, kgt_home: Path) -> None:
    for words in commands(document):
        try:
            check(words)
        except (ValueError, AssertionError, StopIteration) as error:
            raise AssertionError(f"{document}: {' '.join(words)}: {error}") from error


def test_a_command_that_is_none_is_noticed() -> None:
    for line in (
        "python training/promote.py task=all rolback=true",
        "python infra/submit.py first -- python training/run.py stps=3",
        "python pipelines/datasets.py prun",
        "python tests/benchmarks/submission.py --rnus 3",
        "python infra/nothing.py",
    ):
        with pytest.raises((ValueError, AssertionError)):
            check(line.split())


@pytest.mark.parametrize("document", ["docs/operations.md", "infra/README.md"])
def test_every_file_that_is_named_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    named = re.findall(r"\b(?:infra|docs|pipelines|training|tests)/[\w./-]+\.(?:py|sh|yaml|json|md|txt)\b", text)
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []


@functools.cache
def said_by_the_code() -> str:
    """What the code says, with … for what a line fills in."""
    found = []
    for folder in ("kgt", "pipelines", "training", "infra"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%[sdg]", "…", node.value))
    return "\n".join(found)


def test_every_line_of_a_log_that_the_runbook_explains_is_one_that_is_written() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.partition("\n## Alarms\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")][1:]
    phrases = [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)]
    assert len(phrases) > 20
    unknown = [
        phrase
        for phrase in phrases
        if phrase not in OTHERS and not re.search(r"[./]|kubectl|timeout|backup", phrase)
        for piece in re.split(r"…|NAME|\b10\b", phrase)
        if piece.strip() not in said_by_the_code()
    ]
    assert unknown == []


def test_every_alarm_is_explained() -> None:
    tree = ast.parse((ROOT / "training" / "alarms.py").read_text())
    raised = [
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_when"
    ]
    assert len(raised) >= 5
    runbook = (ROOT / "docs" / "operations.md").read_text()
    assert [name for name in raised if f"| `{name}` |" not in runbook] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is absent: its options cannot be checked")
def test_kubectl_takes_its_options_and_finds_what_they_name() -> None:
    lines = [line for document in ("docs/operations.md", "infra/README.md") for line in _kubectl(document)]
    assert len(lines) > 15
    names = {(manifest["kind"].lower(), manifest["metadata"]["name"]) for manifest in MANIFESTS}
    names |= {("service", f"{name}-head-svc") for kind, name in names if kind == "raycluster"}  # KubeRay's
    helps = {}
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        words = words[2:] if words[0] == "-n" else words
        verb = next((verb for verb in VERBS if words[: len(verb.split())] == verb.split()), words[0])
        if verb not in helps:
            command = ["kubectl", *verb.split(), "--help"]
            helps[verb] = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
        ours = itertools.takewhile(lambda word: word != "--", words)
        for word in ours:
            if word.startswith("--"):
                assert f"{word.partition('=')[0]}=" in helps[verb], line
            else:
                for letter in word[1:] if word.startswith("-") else "":
                    assert f"-{letter}, --" in helps[verb], line
            for kind, name in re.findall(r"(cronjob|service|deployment)/([\w-]+)", word):
                assert (kind, name) in names, line
            for path in re.findall(r"infra/kubernetes/\S+", word):
                assert FOLDER.parents[1].joinpath(path).is_dir(), line


def _kubectl(document: str) -> list[str]:
    text = (ROOT / document).read_text()
    parts = [part for line in blocks(text) for part in re.split(r" \| ", line)]
    lines = [*parts, *re.findall(r"`(kubectl [^`…]+)`", text)]
    return [line[line.index("kubectl ") :] for line in lines if "kubectl " in line]
