#!/usr/bin/env bash
# Install facepipe and run the main job.
#
#   infra/curate.sh SRC.. --out DATASET [OPTION..]    what follows goes to `facepipe curate`
#   infra/curate.sh                                   a first look, on photos that are at hand
#
# VENV and PYTHON: see infra/install.sh. FACEPIPE_ASSETS: the folder of photos and models to
# take a first look with (default: ../shared/assets beside the checkout).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"
say() { printf 'facepipe: %s\n' "$*" >&2; }

"$root/infra/install.sh"
if (($#)); then
    exec "$venv/bin/facepipe" curate "$@"
fi

assets="${FACEPIPE_ASSETS:-$root/../shared/assets}"
if [[ -d "$assets/photos/various" && -d "$assets/models/insightface_pack" ]]; then
    photos="$assets/photos/various"
    pack="$assets/models/insightface_pack"
else
    # find_spec: the folder's place without the second that importing insightface takes
    photos="$("$venv/bin/python" -c '
from importlib.util import find_spec
from pathlib import Path
spec = find_spec("insightface")
assert spec is not None and spec.origin is not None
print(Path(spec.origin).parent / "data" / "images")')"
    pack="buffalo_sc"
    if [[ ! -d "$HOME/.insightface/models/$pack" ]]; then
        say "insightface now downloads its model pack $pack (about 16 MB) to ~/.insightface/models;"
        say "its weights are for non-commercial research only. To use models that you have instead:"
        say "infra/curate.sh PHOTOS --out DATASET --models FOLDER"
    fi
fi
# 2: datasets of earlier versions, whose list of inputs was another, are not read on.
dataset="${XDG_CACHE_HOME:-$HOME/.cache}/facepipe/first-look-2-$(basename "$pack")"
say "photos $photos, models $pack, dataset $dataset"
exec "$venv/bin/facepipe" curate "$photos" --out "$dataset" --models "$pack"
