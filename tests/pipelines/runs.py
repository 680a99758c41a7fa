"""The commands as processes of their own: started, killed in part or as a whole, watched to the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.storage import Store

# A process with a Ray of its own that runs one command after another: a Ray takes seconds to start.
_SERVE = """
import contextlib, importlib, io, json, sys, traceback
from pipelines import cluster
cluster.connect(cores=2)
for line in sys.stdin:
    script, *argv = json.loads(line)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = importlib.import_module(f"pipelines.{script}").main(argv)
    except BaseException:
        code = 1
        said.write(traceback.format_exc())
    print("ANSWER", json.dumps([code, said.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it printed, both streams together."""

    code: int
    said: str

    @property
    def error(self) -> str:
        """Its one error line. Fails if there is none, more than one, or a trace."""
        assert "Traceback" not in self.said, self.said
        (line,) = [line for line in self.said.splitlines() if line.startswith("error:")]
        return line


class Commands:
    """Runs commands one after another on one Ray, which has this process's environment plus `variables`."""

    def __init__(self, root: Path, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            cwd=root,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, script: str, *argv: str) -> Ended:
        """`script` (without `.py`) with these arguments."""
        self._process.stdin.write(json.dumps([script, *argv]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("ANSWER "):
                return Ended(*json.loads(line.removeprefix("ANSWER ")))
        raise AssertionError(f"it ended by itself: {self._process.wait()}")

    def close(self) -> None:
        """End it, and its Ray."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@dataclass(frozen=True)
class Member:
    """A process of a run."""

    pid: int
    name: str


class Run:
    """One command in a session of its own, by which whatever it starts is found, also when it is dead itself."""

    def __init__(self, root: Path, script: str, *argv: str, cwd: Path, variables: Mapping[str, str]) -> None:
        self._output = open(cwd / f"output-{time.monotonic_ns()}", "w+")  # noqa: SIM115 (it lives as long as the run)
        self.process = subprocess.Popen(
            [sys.executable, str(root / "pipelines" / script), *argv],
            cwd=cwd,
            env={**os.environ, **variables},
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def members(self) -> list[Member]:
        """Its processes that are alive."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                head, _, tail = path.read_text().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, _, _, session = tail.split()[:4]
            if int(session) == self.process.pid and state not in "ZX":
                found.append(Member(int(path.parent.name), head.partition("(")[2]))
        return found

    def kill(self, name: str) -> bool:
        """SIGKILL to the first of its processes whose name begins so (`driver`: the command); False if none does."""
        if name == "driver":
            self.process.kill()
            return True
        for member in self.members():
            if member.name.startswith(name):
                os.kill(member.pid, signal.SIGKILL)
                return True
        return False

    def wait(self, seconds: float) -> Ended:
        """How the command ended. What it started may still be ending, or left behind: see `end`."""
        code = self.process.wait(seconds)
        return Ended(code, Path(self._output.name).read_text())

    def end(self) -> None:
        """Kill whatever is left of it."""
        for member in self.members():
            try:
                os.kill(member.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self._output.close()


def arguments(photos: Path, store: Store, *more: str) -> list[str]:
    """What the commands are given to make small shards quickly; `more` overrules."""
    return [f"source={photos}", f"store={store.url}", "crop=48", "crops=3", "shards_min=4", "max_flatness=1", *more]


def contents(store: Store) -> dict[str, bytes]:
    """Every object of a store."""
    return {key: store.get(key) for key in store.list("")}
