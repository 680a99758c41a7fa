"""Where embedded state lives: `KGT_HOME`, by default `~/.kgt`."""

import os
from pathlib import Path

from kgt.addresses import without_password


def home() -> Path:
    """The folder of shards, runs, artifacts and the embedded MLflow database. Absolute; not created here."""
    return Path(os.environ.get("KGT_HOME") or "~/.kgt").expanduser().absolute()


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else the SQLite database under `home()`.

    Raises UserError for an address with a password in it.
    """
    return without_password(
        os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}",
        "MLFLOW_TRACKING_URI",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead (PGPASSWORD for PostgreSQL)",
    )
