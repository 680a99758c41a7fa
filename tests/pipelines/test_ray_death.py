"""A run does not outlive the Ray that it stands on, and says so; what Ray takes for itself is given back."""

import subprocess
from collections.abc import Callable

KILLED = """
import time
import psutil
import ray
from pipelines import cluster, ray_death
cluster.connect(cores=1)
ray.shutdown()
print("left")
cluster.connect(cores=1)
with ray_death.at_death(lambda: print("farewell", flush=True)):
    next(child for child in psutil.Process().children() if child.name() == "raylet").kill()
    time.sleep(60)
print("alive")
"""


def test_only_the_death_of_its_present_raylet_ends_a_process(
    run_script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ended = run_script(KILLED)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout.splitlines() == ["left", "farewell"]
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: Ray died under the run")


STOPPED = """
import os
import signal
import sys
import time
from kgt.errors import as_command
from pipelines import cluster

@as_command("interrupted: half of it is there")
def main():
    cluster.connect(cores=1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

sys.exit(main())
"""


def test_sigterm_ends_a_command_on_ray_as_it_does_elsewhere(
    run_script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Ray's C++ would take it for a crash: a trace, and an abort."""
    ended = run_script(STOPPED)
    assert ended.returncode == 143
    assert ended.stderr == "interrupted: half of it is there\n"
