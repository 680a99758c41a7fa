"""Commands of this project as manifests, units and crontabs write them: read as the project itself reads them."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from infra import backup, submit
from pipelines.job_options import Options, RenewalOptions
from pipelines.options import parse
from training import evaluate, promote
from training.config import read_configs

_SCHEMAS = {
    "pipelines/synthesize.py": Options,
    "pipelines/regenerate.py": RenewalOptions,
    "training/evaluate.py": evaluate.Options,
    "training/promote.py": promote.Options,
    "infra/backup.py": backup.Options,
    "infra/submit.py": submit.Options,
}


def check_command(command: str | Sequence[str], root: Path) -> str:
    """The script that the command runs (`training/run.py`), when it exists and every setting is one that it takes.

    Words before the script are left alone. Raises UserError for a setting, AssertionError for a script.
    """
    words = shlex.split(command) if isinstance(command, str) else list(command)
    scripts = [index for index, word in enumerate(words) if word.endswith(".py")]
    assert len(scripts) == 1, f"one script in {words}"
    script = words[scripts[0]].removeprefix("/opt/kgt/")
    assert (root / script).is_file(), f"no such script: {script}"
    settings = words[scripts[0] + 1 :]
    if script == "training/run.py":
        read_configs(settings, "")
    else:
        parse(_SCHEMAS[script], settings, "")
    return script
