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

# The tests of pipelines mostly wait for processes that they start; the others compute, and
# start nothing that those could meet (no cluster). Side by side, cut so that both end at about
# the same time, they take little more than half of the whole.
beside=(tests/facepipe tests/training tests/infra
    tests/pipelines/test_{demo,evaluate,export,index,overlap,partition,report,search}*.py)
said="$(mktemp)"
trap 'rm -f "$said"' EXIT
"$python" -m pytest -p no:cacheprovider "${beside[@]}" >"$said" 2>&1 &
waited=$!
failed=0
"$python" -m pytest "${beside[@]/#/--ignore=}" || failed=$?
wait "$waited" || failed=$?
cat "$said"
exit "$failed"
