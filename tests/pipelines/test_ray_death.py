"""A run does not outlive the Ray that it stands on, and says so."""

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
