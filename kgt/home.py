"""Where embedded state lives: `KGT_HOME`, by default `~/.kgt`."""

import os
from pathlib import Path


def home() -> Path:
    """The folder of shards, runs, artifacts and the embedded MLflow database. Absolute; not created here."""
    return Path(os.environ.get("KGT_HOME") or "~/.kgt").expanduser().absolute()


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else the SQLite database under `home()`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
