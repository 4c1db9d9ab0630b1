#!/usr/bin/env bash
# Install facepipe and run the main job.
#
#   infra/curate.sh SRC.. --out DATASET [OPTION..]    what follows goes to `facepipe curate`
#   infra/curate.sh                                   a first look, on photos that are at hand
#
# The models are those that come with facepipe, unless --models names others: nothing is
# downloaded but the packages. VENV and PYTHON: see infra/install.sh. FACEPIPE_ASSETS: a folder
# of photos to take a first look at (default: ../shared/assets beside the checkout, else the
# photos that come with insightface).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"
say() { printf 'facepipe: %s\n' "$*" >&2; }

"$root/infra/install.sh"
if (($#)); then
    exec "$venv/bin/facepipe" curate "$@"
fi

photos="${FACEPIPE_ASSETS:-$root/../shared/assets}/photos/various"
if [[ ! -d "$photos" ]]; then
    # find_spec: the folder's place without the second that importing insightface takes
    photos="$("$venv/bin/python" -c '
from importlib.util import find_spec
from pathlib import Path
spec = find_spec("insightface")
assert spec is not None and spec.origin is not None
print(Path(spec.origin).parent / "data" / "images")')"
fi
# Other photos or models are another dataset; 2: so is one of an earlier version, whose list of
# inputs was another.
key="$({ printf '%s\n' "$photos" && cat "$root/facepipe/builtin/SHA256SUMS"; } | cksum)"
dataset="${XDG_CACHE_HOME:-$HOME/.cache}/facepipe/first-look-2-${key%% *}"
say "photos $photos, dataset $dataset"
exec "$venv/bin/facepipe" curate "$photos" --out "$dataset"
