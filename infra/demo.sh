#!/usr/bin/env bash
# Install facepipe and see everything it does, once, on sample photos: half a minute, offline.
#
#   infra/demo.sh [OPTION..]     what follows goes to `facepipe demo`, e.g. --open, --out FOLDER
#
# The photos come with packages that are installed, the models with facepipe. Ends with a page,
# facepipe-demo/demo.html below the present folder; run again, it does only what is missing.
# With torch, so that the demo also trains; EXTRAS= leaves it out (on Linux it brings CUDA: some GB).
# VENV and PYTHON: see infra/install.sh.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/infra/install.sh" "${EXTRAS-train}"
exec "${VENV:-$root/.venv}/bin/facepipe" demo "$@"
