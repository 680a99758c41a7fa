"""Timers, services and the crontab: systemd's own check, and what they would run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.commands import check_command

UNITS = ("kgt-regenerate", "kgt-nightly")

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is absent")


def units(root: Path, folder: Path) -> list[Path]:
    """The units as on a machine whose /opt/kgt is this checkout, in `folder`."""
    for source in (root / "infra" / "schedules").glob("kgt-*"):
        text = source.read_text().replace("/opt/kgt/.venv/bin/python", sys.executable).replace("/opt/kgt", str(root))
        (folder / source.name).write_text(text)
    return sorted(folder.iterdir())


def verify(paths: list[Path]) -> str:
    """What systemd has to say of units."""
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    return "\n".join(line for line in done.stderr.splitlines() if "kgt-" in line)


@needs_systemd
def test_systemd_accepts_the_units(root: Path, tmp_path: Path) -> None:
    paths = units(root, tmp_path)
    assert [path.name for path in paths] == sorted(f"{unit}.{kind}" for unit in UNITS for kind in ("service", "timer"))
    assert verify(paths) == ""
    service = tmp_path / "kgt-regenerate.service"
    service.write_text(service.read_text().replace("NoNewPrivileges", "NoNewPriviliges"))
    assert "NoNewPriviliges" in verify([service])


@needs_systemd
def test_services_are_shut_in(root: Path, tmp_path: Path) -> None:
    """systemd's own measure of what a service could do to its machine, of 10."""

    def exposed(path: Path) -> bool:
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=40", path]
        return bool(subprocess.run(command, capture_output=True, check=False).returncode)

    services = [path for path in units(root, tmp_path) if path.suffix == ".service"]
    assert not any(exposed(path) for path in services)
    services[0].write_text(
        re.sub(r"^(User|Protect\w+|CapabilityBoundingSet)=.*\n", "", services[0].read_text(), flags=re.M)
    )
    assert exposed(services[0])


def test_the_timer_and_cron_make_the_same_shards(root: Path) -> None:
    folder = root / "infra" / "schedules"
    (started,) = re.findall(r"^ExecStart=(.*)$", (folder / "kgt-regenerate.service").read_text(), re.M)
    lines = [line for line in (folder / "crontab").read_text().splitlines() if re.match(r"[\d*]", line)]
    assert len(lines) == 2
    fields = [line.split(maxsplit=6) for line in lines]
    assert all(int(minute) < 60 and int(hour) < 24 and user == "kgt" for minute, hour, *_, user, _ in fields)
    assert not [line for line in lines if re.search(r"(?<!\\)%", line)]  # to cron it is the end of the line
    command = lines[0].partition(".venv/bin/")[2]
    assert check_command(started, root) == check_command(command, root) == "pipelines/regenerate.py"
    assert shlex.split(started.replace("{", "").replace("}", ""))[1:] == shlex.split(command)[1:]
    assert lines[1].endswith(" infra/schedules/nightly.sh")


@pytest.mark.parametrize("failing", [0, 2])
def test_a_night_ends_with_the_step_that_fails(failing: int, root: Path, tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$*" >> commands\n[ "$(wc -l < commands)" != {failing} ]\n')
    python.chmod(0o755)
    places = {"STORE": "s3://b/shards", "RUNS": "s3://b/runs", "IMAGES": "/held/out", "KGT_HOME": str(tmp_path)}
    script = root / "infra" / "schedules" / "nightly.sh"
    done = subprocess.run([script], cwd=tmp_path, env=os.environ | places, check=False)
    commands = (tmp_path / "commands").read_text().splitlines()
    steps = ["training/run.py", "training/evaluate.py", "training/promote.py"]
    assert [check_command(command, root) for command in commands] == steps[: failing or 3]
    assert bool(done.returncode) == bool(failing)
