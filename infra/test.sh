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
exec "${VENV:-$root/.venv}/bin/python" -m pytest "$@"
