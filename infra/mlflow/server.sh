#!/usr/bin/env bash
# Show one's own runs and models: MLflow's pages on this machine, http://127.0.0.1:5000.
#
#   infra/mlflow/server.sh [FOLDER]      FOLDER: with mlflow.db (default: facepipe's own)
#
# The same server can be tracked to, by MLFLOW_TRACKING_URI=http://127.0.0.1:5000. It listens on
# loopback only: it has no login. PORT chooses another port, VENV another environment.
# DRY_RUN=1 prints the command. For several people: infra/mlflow/README.md.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
folder="${1:-${XDG_DATA_HOME:-$HOME/.local/share}/facepipe}"
mlflow="${VENV:-$root/.venv}/bin/mlflow"

# No telemetry, nothing unpickled, no list of language models from GitHub, no jobs for them.
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true MLFLOW_MODEL_CATALOG_URI=
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

run() { if [[ -n "${DRY_RUN:-}" ]]; then printf '%q ' "$@" && echo; else exec "$@"; fi; }
[[ -n "${DRY_RUN:-}" ]] || mkdir -p "$folder"
run "$mlflow" server --host 127.0.0.1 --port "${PORT:-5000}" --workers 1 \
    --backend-store-uri "sqlite:///$folder/mlflow.db" --artifacts-destination "$folder/mlartifacts"
