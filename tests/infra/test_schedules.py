"""Timers, services and the crontab: systemd's own check, and what they would run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
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


def cron_lines(root: Path) -> list[str]:
    """What is run at a time, with the time and the user."""
    lines = (root / "infra" / "schedules" / "crontab").read_text().splitlines()
    return [line for line in lines if re.match(r"[\d*]", line)]


def flocked(command: str) -> list[str]:
    """The words of a command from its lock on, as variables are written in both places."""
    words = shlex.split(command.replace("{", "").replace("}", ""))
    at = next(index for index, word in enumerate(words) if word.endswith("flock"))
    return [word.removeprefix("/opt/kgt/") for word in words[at + 1 :]]


def test_timers_and_cron_run_the_same(root: Path) -> None:
    folder = root / "infra" / "schedules"
    lines = cron_lines(root)
    for line, unit in zip(lines, UNITS, strict=True):
        minute, hour, *_, user, command = line.split(maxsplit=6)
        assert user == "kgt"
        assert not re.search(r"(?<!\\)%", line)  # to cron it is the end of the line
        service = (folder / f"{unit}.service").read_text()
        (started,) = re.findall(r"^ExecStart=(.*)$", service, re.M)
        (deadline,) = re.findall(r"^TimeoutStartSec=(.*)$", service, re.M)
        (at,) = re.findall(r"^OnCalendar=(.*)$", (folder / f"{unit}.timer").read_text(), re.M)
        assert flocked(started) == flocked(command)
        assert f" {deadline} flock " in command
        assert at == f"*-*-* {int(hour):02d}:{int(minute):02d}:00"
    assert check_command(flocked(lines[0]), root) == "pipelines/regenerate.py"
    assert flocked(lines[1])[-1] == "infra/schedules/nightly.sh"
    assert "TZ" not in (folder / "crontab").read_text(), "Debian's cron takes no notice of it"


PYTHON = """#!{python}
import signal, sys, time
from pathlib import Path
def note(what):
    with open("log", "a") as log:
        print(what, *sys.argv[1:2], file=log, flush=True)
def interrupted(*_):
    note("interrupted")
    time.sleep(0.3)
    raise SystemExit(130)
signal.signal(signal.SIGINT, interrupted)
note("begins")
time.sleep({seconds})
note("ends")
"""


class Machine:
    """One whose crontab is ours, and whose `python` says what it was given and takes a while."""

    def __init__(self, root: Path, folder: Path, seconds: float) -> None:
        """folder: of the checkout, of /etc/kgt and of /var/lib/kgt."""
        self._lines = cron_lines(root)
        self.folder = folder
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / "infra" / "schedules").mkdir(parents=True)
        shutil.copy(root / "infra" / "schedules" / "nightly.sh", folder / "infra" / "schedules")
        python = folder / ".venv" / "bin" / "python"
        python.write_text(PYTHON.format(python=sys.executable, seconds=seconds))
        python.chmod(0o755)
        (folder / "environment").write_text(
            "SOURCE=/photographs\nSTORE=s3://b/shards\nRUNS=s3://b/runs\nIMAGES=/held\n"
        )

    def start(self, line: int, **changes: str) -> subprocess.Popen[bytes]:
        """What cron does with a line, after `changes` of some of its words."""
        command = self._lines[line].split(maxsplit=6)[6]
        for place in ("/opt/kgt", "/etc/kgt", "/var/lib/kgt"):
            command = command.replace(place, str(self.folder))
        for word, other in changes.items():
            command = command.replace(f" {word.removeprefix('_')} ", f" {other} ")
        return subprocess.Popen(
            ["/bin/bash", "-c", command],
            env={"PATH": os.environ["PATH"], "KGT_HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def log(self) -> list[str]:
        """What `python` has said."""
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, count: int) -> None:
        """Until the log has so many lines."""
        deadline = time.monotonic() + 60
        while len(self.log()) < count:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)


def test_a_night_waits_for_the_shards(root: Path, tmp_path: Path) -> None:
    machine = Machine(root, tmp_path, seconds=0.4)
    shards = machine.start(0)
    machine.wait_for(1)
    night = machine.start(1)
    assert (shards.wait(60), night.wait(60)) == (0, 0)
    steps = ["pipelines/regenerate.py", "training/run.py", "training/evaluate.py", "training/promote.py"]
    assert machine.log() == [f"{what} {step}" for step in steps for what in ("begins", "ends")]


@pytest.mark.parametrize(
    ("line", "deadline", "step"), [(0, "_6h", "pipelines/regenerate.py"), (1, "_20h", "training/run.py")]
)
def test_a_deadline_interrupts_once_and_is_exit_code_124(
    line: int, deadline: str, step: str, root: Path, tmp_path: Path
) -> None:
    """A second signal would end a training without its checkpoint."""
    machine = Machine(root, tmp_path, seconds=60)
    ended = machine.start(line, **{deadline: "10"})  # enough to begin in, on a busy machine
    assert ended.wait(60) == 124
    machine.wait_for(2)
    time.sleep(0.1)
    assert machine.log() == [f"begins {step}", f"interrupted {step}"]


def test_systemd_does_not_begin_anew_what_a_deadline_ended(root: Path) -> None:
    """It interrupts then: what hears that exits with 130, a script or a waiting flock ends by the signal."""
    for unit in UNITS:
        service = (root / "infra" / "schedules" / f"{unit}.service").read_text()
        (final,) = re.findall(r"^RestartPreventExitStatus=(.*)$", service, re.M)
        assert "KillSignal=SIGINT" in service
        assert {"2", "130", "SIGINT"} <= set(final.split())


@pytest.mark.parametrize("failing", [0, 2])
def test_a_night_ends_with_the_step_that_fails(failing: int, root: Path, tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$*" >> commands\n[ "$(wc -l < commands)" != {failing} ]\n')
    python.chmod(0o755)
    places = {"STORE": "s3://b/shards", "RUNS": "s3://b/runs", "IMAGES": "/held/out", "KGT_HOME": str(tmp_path)}
    script = root / "infra" / "schedules" / "nightly.sh"

    def night() -> tuple[list[str], int]:
        done = subprocess.run([script], cwd=tmp_path, env=os.environ | places, check=False)
        commands = (tmp_path / "commands").read_text().splitlines()
        (tmp_path / "commands").unlink()
        assert "only_new=true" in commands[-1] or failing
        return [check_command(command, root) for command in commands], done.returncode

    steps = ["training/run.py", "training/evaluate.py", "training/promote.py"]
    assert night() == (steps[: failing or 3], int(bool(failing)))
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / f"nightly-{time.strftime('%F')}.json").touch()
    if not failing:
        assert night() == ([steps[0], steps[2]], 0), "it was evaluated"
