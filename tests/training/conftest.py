"""Where the tests of tracking and registry find MLflow."""

from __future__ import annotations

from tests.mlflow_places import (  # noqa: F401
    database,
    empty_database,
    gate,
    own_folders,
    server,
)
