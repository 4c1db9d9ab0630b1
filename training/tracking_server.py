"""Where runs are tracked and models registered, and what MLflow must not do meanwhile.

Without MLFLOW_TRACKING_URI it is a database of the user's own, the same from every folder, so
that `models:/NAME@champion` means the same everywhere: ~/.local/share/facepipe/mlflow.db
(XDG_DATA_HOME is honoured), the files beside it. MLflow is not imported here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from facepipe.errors import UsageError

VARIABLE = "MLFLOW_TRACKING_URI"
ARTIFACTS = "mlartifacts"  # MLflow's own name of the folder beside a server's database
_SQLITE = "sqlite:///"

# MLflow reads them while it is imported (mlflow 3.17: environment_variables.py,
# telemetry/utils.py, agent/hint.py), so they are set before that.
FORCED = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",  # its default is true
    "MLFLOW_MODEL_CATALOG_URI": "",  # else a list of language models comes from GitHub
    "MLFLOW_DISABLE_AGENT_HINT": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which is for results
}
# What a user may set otherwise.
DEFAULTS = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's 7 retries take four minutes: to wait is the business of `MetricSender`.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",  # seconds
    "GIT_PYTHON_REFRESH": "quiet",  # no warning where there is no git
}


def set_switches() -> None:
    """Turn off telemetry, pickle and chatter; call it before MLflow is imported."""
    os.environ.update(FORCED)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def default_uri() -> str:
    """Return the database that is used where none is named."""
    root = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return _SQLITE + str(Path(root).expanduser().absolute() / "facepipe" / "mlflow.db")


def server_uri(given: str | None = None) -> str:
    """Return the address of the tracking server: the one given, the variable's, or the default.

    Raises UsageError for what is neither http(s):// nor sqlite:///.
    """
    uri = given or os.environ.get(VARIABLE) or default_uri()
    if uri.startswith(("http://", "https://")):
        return uri.rstrip("/")
    path = uri.removeprefix(_SQLITE)
    if path == uri or not path or path == ":memory:":
        raise UsageError(
            f"runs cannot be tracked at {shown(uri)!r}: give {VARIABLE} (or --mlflow) the http:// "
            "or https:// address of an MLflow server, or sqlite:///FILE.db; MLflow has given up "
            "folders (file:), and another database is reached through `mlflow server "
            "--backend-store-uri ...`"
        )
    return _SQLITE + str(Path(path).expanduser().absolute())


def shown(uri: str) -> str:
    """Return an address as it may be printed: without a password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def artifact_folder(uri: str) -> Path | None:
    """Return where files go that belong to a database; None where a server decides.

    Left alone, MLflow would put them into `mlruns` of whichever folder is the current one.
    """
    path = database(uri)
    return None if path is None else path.parent / ARTIFACTS


def database(uri: str) -> Path | None:
    """Return the file of an sqlite address, None for a server's."""
    return Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else None
