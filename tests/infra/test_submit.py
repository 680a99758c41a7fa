"""`infra/submit.py` against a real cluster: one job a tick, followed to its end over connections that break."""

import os
import secrets
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from infra import submit
from kgt.errors import UserError
from tests.infra.test_cluster_job import BIN, cluster

TOKEN = secrets.token_hex(32)

RACING = """
import sys
from infra.job_server import JobServer
server = JobServer(sys.argv[1])
see = server._see_that_it_is_alone
seen = iter([lambda *_: None, see])  # the first time, the other job was not to be seen yet
server._see_that_it_is_alone = lambda *of: next(seen)(*of)
server.submit("race-2", "race", "echo second; sleep 600", None, {})
"""

LOSING = """
import sys, time
import requests
from infra.job_server import JobServer
server = JobServer(sys.argv[1])
see, request, seen, lost = server._see_that_it_is_alone, requests.request, [], []

def losing(*arguments, **options):
    if lost:
        lost.pop()
        raise requests.ConnectionError("the answer is lost")
    return request(*arguments, **options)

def see_and_lose(*of):
    seen.append(of)
    if len(seen) == 2:  # the job has begun
        lost.append(1)
    see(*of)

requests.request, server._see_that_it_is_alone = losing, see_and_lose
started = server.submit("kept-1", "kept", "echo a line", None, {})
while not server._find("kept-1").status.is_terminal():
    time.sleep(0.2)
lost.append(1)
server._print_rest("kept-1", 0)
assert not lost
print(started)
"""

Submitting = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def token_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """What submit.py sets for its own process ends with a test: a Ray that this one starts later chooses for itself."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
    }
    with cluster(environment) as address:
        yield address


@pytest.fixture
def submitting(root: Path, address: str, tmp_path: Path) -> Iterator[Submitting]:
    """Starts `infra/submit.py` with arguments; its token lies in a file."""
    (tmp_path / "token").write_text(TOKEN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "HOME": str(tmp_path)}
    started = []

    def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, root / "infra" / "submit.py", *arguments],
            cwd=tmp_path,
            env=environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """(status, the command's output, what submit.py says)."""
    out, err = process.communicate(timeout=180)
    assert TOKEN not in out + err
    ray_s_own = ("Runtime env is setting up.\n", "Running entrypoint for job ")
    lines = [line for line in out.splitlines(keepends=True) if not any(words in line for words in ray_s_own)]
    return process.returncode, "".join(lines), err


class Relay:
    """A port that leads to another one, and whose connections break when it is told."""

    def __init__(self, target: str) -> None:
        self._target = int(target.rpartition(":")[2])
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for connection in self._open:
            connection.close()
        self._open.clear()

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._open += [near, far]
            threading.Thread(target=self._pump, args=(near, far), daemon=True).start()

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        try:
            while True:
                for source in select.select([near, far], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        raise OSError
                    (far if source is near else near).sendall(data)
        except (OSError, ValueError):  # closed by the other end, or by `cut`
            near.close()
            far.close()


def test_a_tick_is_one_job_whose_log_and_status_are_the_command_s(submitting: Submitting, tmp_path: Path) -> None:
    counter = tmp_path / "runs"
    command = ["--", "sh", "-c", f"echo run >> {counter}; echo 'a line'; exit 3"]
    first = ended(submitting("once", "tick=1", "upload=false", *command))
    assert (first[0], first[1]) == (3, "a line\n")
    assert "once-1 is submitted" in first[2]
    assert "exit code 3" in first[2]
    again = ended(submitting("once", "tick=1", "upload=false", *command))
    assert (again[0], again[1]) == (3, "a line\n")
    assert "once-1 was submitted before" in again[2]
    assert counter.read_text() == "run\n"


def test_no_two_ticks_of_a_name_are_at_work_and_a_stopped_job_is_no_success(
    submitting: Submitting, address: str, tmp_path: Path
) -> None:
    """It has the time that a checkpoint takes: by itself Ray kills after three seconds."""
    saving = "trap 'sleep 5; echo saved; exit' TERM; echo begun; sleep 600 & wait"
    first = submitting("long", "tick=1", "upload=false", "--", "sh", "-c", saving)
    while first.stdout.readline() != "begun\n":
        assert first.poll() is None
    code, out, err = ended(submitting("long", "tick=2", "upload=false", "--", "echo", "second"))
    assert (code, out) == (2, "")
    assert "long is still at work as long-1: wait for it, or end it with: ray job stop long-1" in err
    assert ended(submitting("other", "tick=2", "upload=false", "--", "echo", "another name"))[:2] == (
        0,
        "another name\n",
    )
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    stop = [BIN / "ray", "job", "stop", "--no-wait", f"--address={address}", "long-1"]
    subprocess.run(stop, env=environment, check=True, capture_output=True, timeout=120)
    code, out, err = ended(first)
    assert (code, out) == (143, "saved\n")
    assert "stopped" in err


@pytest.mark.slow
def test_of_two_that_are_submitted_at_once_the_later_gives_way_and_its_tick_is_free_again(
    submitting: Submitting, address: str, root: Path
) -> None:
    first = submitting("race", "tick=1", "upload=false", "--", "sh", "-c", "echo begun; sleep 600")
    while first.stdout.readline() != "begun\n":
        assert first.poll() is None
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    racing = [sys.executable, "-c", RACING, address]
    raced = subprocess.run(racing, cwd=root, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert "UserError: race is still at work as race-1" in raced.stderr
    stop = [BIN / "ray", "job", "stop", f"--address={address}", "race-1"]
    subprocess.run(stop, env=environment, check=True, capture_output=True, timeout=120)
    assert ended(first)[0] == 143
    for words in ("race-2~2 is submitted", "race-2~2 was submitted before"):
        code, out, err = ended(submitting("race", "tick=2", "upload=false", "--", "echo", "second"))
        assert (code, out) == (0, "second\n"), err
        assert words in err
    assert ended(submitting("race", "tick=1", "upload=false", "--", "echo", "first"))[0] == 143  # someone stopped it


def test_every_line_comes_once_over_connections_that_break(submitting: Submitting, address: str) -> None:
    relay = Relay(address)
    counting = "for i in $(seq 20); do echo line $i; sleep 0.2; done"
    following = submitting("lines", f"address={relay.address}", "upload=false", "--", "sh", "-c", counting)
    cuts = threading.Event()

    def cut_often() -> None:
        while not cuts.wait(1.5):
            relay.cut()

    while "is submitted" not in following.stderr.readline():  # before that, nothing answers for it
        assert following.poll() is None
    threading.Thread(target=cut_often, daemon=True).start()
    try:
        code, out, err = ended(following)
    finally:
        cuts.set()
        relay.close()
    assert code == 0, err
    assert out == "".join(f"line {number}\n" for number in range(1, 21))


def test_a_lost_connection_is_neither_a_job_not_submitted_nor_a_lost_log(address: str, root: Path) -> None:
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    losing = [sys.executable, "-c", LOSING, address]
    done = subprocess.run(losing, cwd=root, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "a line\n" in done.stdout
    assert done.stdout.endswith("('kept-1', True)\n")


def test_a_job_takes_the_sources_and_what_it_is_given_of_the_environment(submitting: Submitting) -> None:
    code = (
        "import os, sys, kgt, training; print(sorted(os.listdir()), os.environ['KGT_GIT_COMMIT'][:7], os.environ['A'])"
    )
    status, out, err = ended(submitting("sources", "env=[A]", "--", sys.executable, "-c", code, A="b"))
    assert status == 0, err
    assert "'pipelines', 'pyproject.toml'" in out
    assert "tests" not in out
    assert out.endswith(" b\n")


def test_another_token_and_none_are_refused_in_a_line(submitting: Submitting, address: str, tmp_path: Path) -> None:
    wrong = secrets.token_hex(32)
    (tmp_path / "wrong").write_text(wrong)
    for path in (tmp_path / "wrong", tmp_path / "nowhere"):
        code, out, err = ended(submitting("a", "upload=false", "--", "true", RAY_AUTH_TOKEN_PATH=str(path)))
        assert (code, out) == (2, "")
        assert wrong not in err
        assert err.startswith("error: the Ray at ")
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([200], "runs what anyone sends to it: start it anew with RAY_AUTH_MODE=token"),
        ([404], "no Ray answers at"),
        ([401, 404], "no Ray answers at"),
        ([401, 500], "no Ray answers at"),
        ([401, 401], "does not take this token"),
    ],
)
def test_what_is_no_cluster_with_a_token_is_given_no_job(
    answers: list[int], words: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something that answers each request with the next of these, and any more with the last."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    left = list(answers)

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if left[1:] else left[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert submit.main(["a", f"address={address}", "upload=false", "--", "true"]) == 2
        server.shutdown()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the job first"),
        (["tick=1", "--", "true"], "name the job first"),
        (["a b", "--", "true"], "name 'a b': letters, digits"),
        (["a", "tick=1/2", "--", "true"], "tick '1/2'"),
        (["a", "tik=1", "--", "true"], "did you mean 'tick'?"),
        (["a"], "no command: write it after --"),
        (["a", "address=ray://head:10001", "--", "true"], "write that of the dashboard"),
        (["a", "address=http://127.0.0.1:9", "upload=false", "--", "true"], "no Ray answers at http://127.0.0.1:9"),
        (["a", "env=[NOWHERE]", "--", "true"], "env=NOWHERE: it is not set here"),
        (["a", "env=[AWS_SECRET_ACCESS_KEY]", "--", "true"], "everyone who sees the cluster would read it"),
        (["a", "env=[DB_PASS]", "--", "true"], "env=DB_PASS: everyone who sees the cluster would read it"),
        (["a", "--", "env", "MLFLOW_TRACKING_PASSWORD=hidden", "true"], "MLFLOW_TRACKING_PASSWORD= in the command"),
        (["a", "--", "sh", "-c", "MLFLOW_TRACKING_PASSWORD='hidden' true"], "would read it"),
        (["a", "address=http://u:hidden@h:1", "--", "true"], "an address holds a password"),
        (["a", "--", "python", "x.py", "store=s3://u:hidden@h/x"], "an address in the command holds a password"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "DB_PASS"):
        monkeypatch.setenv(name, "hidden")
    assert submit.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert "hidden" not in line


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", 'PGPASSWORD="$DATABASE_PASSWORD" TOKENS=$N MODE=fast true'],  # its own shell puts it in
        ["env", "AWS_SHARED_CREDENTIALS_FILE=/run/secrets/aws", "RAY_AUTH_TOKEN_PATH=/run/secrets/ray", "true"],
        ["env", "TOKENIZERS_PARALLELISM=false", "KEYBOARD=us", "PASSES=2", "true"],
        ["python", "training/run.py", "task=sr", "tasks.sr.scale=2", "lr=2e-3"],
    ],
)
def test_a_command_without_secrets_is_taken(command: list[str]) -> None:
    assert submit.read(["a", "--", *command])[2] == command


@pytest.mark.parametrize(
    "name",
    ["PGPASSWORD", "SSHPASS", "MYSQL_PWD", "db_passwd", "APIKEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "KEY2"],
)
def test_by_its_name_it_is_a_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hidden")
    with pytest.raises(UserError, match=f"env={name}: everyone who sees the cluster would read it"):
        submit._environment([name])
