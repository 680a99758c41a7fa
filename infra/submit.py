"""Runs a command on a Ray cluster as its job: submits it, follows its log to the end, exits with its status.

    python infra/submit.py train -- python training/run.py task=all store=s3://bucket/shards out=s3://bucket/runs/first
    python infra/submit.py train tick=2026-01-31 env=[MLFLOW_TRACKING_URI] -- python training/run.py task=sr
    python infra/submit.py shards upload=false -- python /opt/kgt/pipelines/regenerate.py task=all

A job's id is its name and its tick. The same command, given again, follows the job that is there; while a job of the
name is at work, none of another tick is started; of two that are submitted at once, the later one is stopped, and its
tick is free again. The cluster is RAY_ADDRESS, its token RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN, else that in
~/.ray/auth_token. Ctrl-C leaves the job at work. Exit code: that of the command, 143 where the job was stopped; 2 for a
mistake, or where the job was not submitted.
"""

import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # a script's own folder comes first otherwise
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from infra import upload
from kgt.addresses import without_password
from kgt.errors import UserError, as_command
from pipelines.options import about, divided, parse_named

ROOT = Path(__file__).resolve().parents[1]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SECRET = re.compile(r"PASSW|PASSPHRASE|SECRET|CREDENTIAL|WEBHOOK|(PASS|PWD|TOKEN|KEY)S?[0-9]*(_|$)", re.IGNORECASE)
_WHERE_IT_IS = ("_FILE", "_PATH")  # how a variable's name ends that tells where a secret lies
_ASSIGNED = re.compile(r"""\b([A-Z][A-Z0-9_]*)=(?!["']?\$)\S""")  # not where the job's own shell puts it in


@dataclass
class Options:
    """What the command line can say between the name and `--`."""

    tick: str = field(default="", metadata=about("what this start is for; empty: today (UTC)"))
    address: str = field(default="", metadata=about("http://host:port of the cluster; empty: RAY_ADDRESS"))
    upload: bool = field(default=True, metadata=about("send what git tracks here; false: run what the image holds"))
    env: list[str] = field(default_factory=list, metadata=about("variables of this environment that the job gets too"))


@as_command("interrupted: what was submitted is still at work; the same command follows it again")
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    name, options, command = read(argv)
    job = f"{name}-{options.tick}"
    environment = _environment(options.env)
    package = None
    if options.upload:
        package = upload.pack(ROOT)
        environment["KGT_GIT_COMMIT"] = upload.git_commit(ROOT)
        for path in upload.untracked_sources(ROOT):
            _say(f"{path} is not tracked by git and stays behind")
    from infra.job_server import JobServer, exit_code

    server = JobServer(options.address)
    job, started = server.submit(job, name, shlex.join(command), package, environment)
    if started:
        _say(f"{job} is submitted" + (f" with {len(package) / 1000**2:.1f} MB of sources" if package else ""))
    else:
        _say(f"{job} was submitted before: this is its log (another tick= starts another job)")
    ended = server.follow(job)
    code = exit_code(ended)
    ray_s_own = ended.message if ended.driver_exit_code is None and code else ""
    reason = f": {ray_s_own.strip().splitlines()[0]}" if ray_s_own else ""
    _say(f"{job} has ended: {ended.status.value.lower()}, exit code {code}{reason}")
    return code


def read(argv: Sequence[str]) -> tuple[str, Options, list[str]]:
    """The name, the options with their defaults filled in, and the command's words. Raises UserError."""
    before, command = divided(argv)
    wanted = "name the job first, as in: python infra/submit.py train -- python training/run.py task=all"
    name, options = parse_named(Options, before, __doc__, wanted)
    options.tick = options.tick or time.strftime("%Y-%m-%d", time.gmtime())
    options.address = (options.address or os.environ.get("RAY_ADDRESS") or "http://127.0.0.1:8265").rstrip("/")
    if not options.address.startswith(("http://", "https://")):
        raise UserError(f"address {options.address}: write that of the dashboard, as in http://127.0.0.1:8265")
    without_password(options.address, "RAY_ADDRESS", "the token is in a file, RAY_AUTH_TOKEN_PATH")
    for what, text in (("name", name), ("tick", options.tick)):
        if not _NAME.fullmatch(text):
            raise UserError(f"{what} '{text}': letters, digits and . _ - are wanted")
    if not command:
        raise UserError("no command: write it after --, as in: -- python training/run.py task=all")
    text = " ".join(command)
    without_password(text, "an address in the command", "take the account from the nodes' environment")
    for variable in _ASSIGNED.findall(text):
        _refuse_secret(variable, f"{variable}= in the command")
    return name, options, command


def _environment(names: Sequence[str]) -> dict[str, str]:
    """Those variables of this process. Raises UserError for one that is not set, or that a dashboard must not show."""
    values = {}
    for name in names:
        _refuse_secret(name, f"env={name}")
        if name not in os.environ:
            raise UserError(f"env={name}: it is not set here")
        values[name] = without_password(os.environ[name], name, "take the account from the nodes' environment")
    return values


def _refuse_secret(variable: str, where: str) -> None:
    """Raises UserError for a variable that by its name holds a secret."""
    if _SECRET.search(variable) and not variable.upper().endswith(_WHERE_IT_IS):
        raise UserError(f"{where}: everyone who sees the cluster would read it; a node's secrets are in files")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
