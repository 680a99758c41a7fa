"""Ray's job server: a job a tick, followed to its end. The only module of `infra/` that imports Ray."""

import asyncio
import contextlib
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

# Ray reads it once, while it is imported. Without it, no token is sent.
os.environ.setdefault("RAY_AUTH_MODE", "token")

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from kgt.errors import UserError

for _module in ("dashboard_sdk", "job.sdk"):  # which sets its level while it is imported
    logging.getLogger(f"ray.dashboard.modules.{_module}").setLevel(logging.WARNING)

PATIENCE = 600.0
"""Seconds for which a server that a job was submitted to may be out of reach: the time of a head's restart."""

STOP_SECONDS = 600
"""For which a job that is stopped may still write its checkpoint; Ray's own default is three."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_SILENCE = 300.0  # seconds without a line after which a connection may be dead and is made anew
_PAUSE = 2.0
_STOPPED = 143  # as a shell has it for a process that SIGTERM ended


class JobServer:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """address: http://host:port of the dashboard.

        Raises UserError where nothing answers, where the token is missing or another one, and where none is asked for:
        such a cluster runs what anyone sends to it.
        """
        self.address = address
        try:
            open_to_all = requests.get(f"{address}/api/jobs/", timeout=30).ok
            if open_to_all:
                raise UserError(
                    f"the Ray at {address} runs what anyone sends to it: start it anew with RAY_AUTH_MODE=token"
                )
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise self._wrong_token() from error
        except (RuntimeError, ConnectionError, requests.RequestException) as error:  # the first: another server's 404
            raise UserError(f"no Ray answers at {address}: is the cluster up, and the port forwarded?") from error

    def submit(
        self, job: str, name: str, entrypoint: str, package: bytes | None, environment: Mapping[str, str]
    ) -> tuple[str, bool]:
        """Start a job of that id; its id, and False where it is there already, from an earlier try.

        One that gave way to another, as two were submitted at once, was not done: it is started again, and as Ray takes
        no id twice, its id ends in `~2`, `~3`, … package: a zip of the job's working folder, None for the image's own.
        environment: variables of the job; they can be read by everyone who sees the cluster's dashboard. Raises
        UserError if another job of the same name is at work.
        """
        try:
            return self._submit(job, name, entrypoint, package, environment)
        except AuthenticationError as error:
            raise self._wrong_token() from error
        except (RuntimeError, requests.RequestException) as error:
            raise UserError(
                f"the Ray at {self.address} does not answer as it should: {str(error).splitlines()[0]}"
            ) from error

    def _submit(
        self, job: str, name: str, entrypoint: str, package: bytes | None, environment: Mapping[str, str]
    ) -> tuple[str, bool]:
        alike = self._alike(name)
        tries = itertools.chain([job], (f"{job}~{number}" for number in itertools.count(2)))
        job = next(tried for tried in tries if tried not in alike or not _gave_way(alike[tried], alike.values()))
        if job in alike:
            return job, False
        self._see_that_it_is_alone(job, name)
        with tempfile.TemporaryDirectory() as folder:
            runtime_env: dict[str, object] = {
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **environment}
            }
            if package is not None:
                archive = Path(folder) / "package.zip"
                archive.write_bytes(package)
                runtime_env["working_dir"] = str(archive)
            started = self._start(
                entrypoint=entrypoint, submission_id=job, metadata={"name": name}, runtime_env=runtime_env
            )
        try:
            # Two may have seen nothing of each other: the later one gives way.
            _patiently(self._see_that_it_is_alone, job, name)
        except UserError:
            self._stop(job)
            raise
        return job, started

    def follow(self, job: str) -> JobDetails:
        """Print the job's log, every line once, until the job has ended; how it ended.

        Lost connections are made anew. Raises UserError where the server stays away for longer than PATIENCE, and where
        it no longer knows the job.
        """
        shown, heard = 0, time.monotonic()
        while True:
            before, shown = shown, asyncio.run(self._print_log(job, shown))
            if shown > before:
                heard = time.monotonic()
            try:
                found = self._find(job)
                heard = time.monotonic()
            except (RuntimeError, requests.RequestException) as error:
                if time.monotonic() - heard > PATIENCE:
                    raise UserError(
                        f"the Ray at {self.address} has not answered for {PATIENCE / 60:.0f} min: "
                        "the same command follows the job again"
                    ) from error
                time.sleep(_PAUSE)
                continue
            if found is None:
                raise UserError(f"the Ray at {self.address} does not know {job} any more: its cluster was made anew")
            if found.status.is_terminal():
                self._print_rest(job, shown)
                return found
            time.sleep(_PAUSE)

    def _start(self, **job: object) -> bool:
        """Whether it is started by this; not so where another process has submitted it since.

        A cluster that answers may have no agent yet that takes jobs. Trying again is safe, as the id is the same.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._client.submit_job(**job)
                return True
            except (RuntimeError, requests.RequestException) as error:
                if "already exists" in str(error):
                    return False
                refused = isinstance(error, RuntimeError) and "No available agent" not in str(error)
                if refused or time.monotonic() > deadline:
                    raise UserError(
                        f"the Ray at {self.address} does not take the job: {str(error).splitlines()[0]}"
                    ) from error
            time.sleep(_PAUSE)

    def _stop(self, job: str) -> None:
        """Stop the job and see it end: before that, its tick is not free."""
        _patiently(self._client.stop_job, job)
        deadline = time.monotonic() + PATIENCE
        while (found := _patiently(self._find, job)) and not found.status.is_terminal() and time.monotonic() < deadline:
            time.sleep(_PAUSE)

    def _find(self, job: str) -> JobDetails | None:
        try:
            return self._client.get_job_info(job)
        except AuthenticationError as error:
            raise self._wrong_token() from error
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise

    def _see_that_it_is_alone(self, job: str, name: str) -> None:
        """Raises UserError if there is another job of the name that has not ended and, if ours is there, is older."""
        alike = self._alike(name)
        for other, found in alike.items():
            older = job not in alike or _age(found) < _age(alike[job])
            if other != job and older and not found.status.is_terminal():
                raise UserError(
                    f"{name} is still at work as {other}: wait for it, or end it with: ray job stop {other}"
                )

    def _alike(self, name: str) -> dict[str, JobDetails]:
        """The jobs of that name by their ids."""
        found = [job for job in self._client.list_jobs() if (job.metadata or {}).get("name") == name]
        return {job.submission_id: job for job in found}

    async def _print_log(self, job: str, shown: int) -> int:
        """Print what the log holds after its first `shown` characters, and what comes until the connection ends.

        How many were shown by then. The server sends the log from its beginning, whenever it is asked.
        """
        at = 0
        lines = self._client.tail_job_logs(job)
        with contextlib.suppress(StopAsyncIteration, aiohttp.ClientError, OSError, RuntimeError):
            while True:
                text = await asyncio.wait_for(anext(lines), _SILENCE)
                print(text[max(0, shown - at) :], end="", flush=True)
                at += len(text)
                shown = max(shown, at)
        return shown

    def _print_rest(self, job: str, shown: int) -> None:
        """The end of an ended job's log: the server closes a broken connection as it does a finished one."""
        try:
            print(_patiently(self._client.get_job_logs, job)[shown:], end="", flush=True)
        except (RuntimeError, requests.RequestException):
            print("(the rest of the log is lost with the node that wrote it)", flush=True)

    def _wrong_token(self) -> UserError:
        return UserError(
            f"the Ray at {self.address} does not take this token: set RAY_AUTH_TOKEN_PATH, or RAY_AUTH_TOKEN, "
            "to that of the cluster, or put it into ~/.ray/auth_token"
        )


def _patiently(call: Callable[Parameters, Result], *args: Parameters.args, **named: Parameters.kwargs) -> Result:
    """What it returns; where the connection is lost, it is called again until PATIENCE is over."""
    deadline, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            return call(*args, **named)
        except requests.RequestException as error:
            if time.monotonic() > deadline:
                raise
            if not told:
                logger.warning("Ray does not answer, trying again for %d min: %s", PATIENCE / 60, error)
            told = True
            time.sleep(_PAUSE)


def _age(job: JobDetails) -> tuple[int, str]:
    """The smaller, the older."""
    return job.start_time or 0, job.submission_id


def _gave_way(job: JobDetails, alike: Iterable[JobDetails]) -> bool:
    """Whether it was stopped as an older one of its name was at work: nothing else starts a second one."""
    return job.status == JobStatus.STOPPED and any(
        _age(other) < _age(job) and (not other.status.is_terminal() or (other.end_time or 0) > (job.start_time or 0))
        for other in alike
    )


def exit_code(ended: JobDetails) -> int:
    """The exit status of an ended job's command, as a shell has it; never 0 but where it succeeded."""
    if ended.status == JobStatus.SUCCEEDED:
        return 0
    if ended.status == JobStatus.STOPPED:
        return _STOPPED
    code = ended.driver_exit_code or 1
    return code if code > 0 else 128 - code
