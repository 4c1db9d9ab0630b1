#!/usr/bin/env bash
# Install facepipe with what development needs and run the tests.
#
#   infra/test.sh [PYTEST OPTION..]      e.g. -m 'not slow'
#
# VENV and PYTHON: see infra/install.sh. Tests that need photos and models look for them in
# ../shared/assets, or FACEPIPE_ASSETS, and skip, saying so, where there are none.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/infra/install.sh" dev,ray,beam,train,video
cd "$root"
python="${VENV:-$root/.venv}/bin/python"
if (($#)); then
    exec "$python" -m pytest "$@"
fi

# The others mostly wait for processes that they start; training's compute, and start nothing
# that the others could meet. Side by side they take the time of the others alone.
training="$(mktemp)"
trap 'rm -f "$training"' EXIT
"$python" -m pytest -p no:cacheprovider tests/training >"$training" 2>&1 &
beside=$!
failed=0
"$python" -m pytest --ignore=tests/training || failed=$?
wait "$beside" || failed=$?
cat "$training"
exit "$failed"
