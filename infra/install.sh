#!/usr/bin/env bash
# Make the virtual environment and install facepipe into it, from this checkout.
#
#   infra/install.sh [EXTRA[,EXTRA...]]     e.g. dev   or   ray,beam
#
# VENV is the environment's folder (default: .venv in the checkout), PYTHON the interpreter
# that makes it (default: python3). Does nothing where the same was installed before.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"
python="${PYTHON:-python3}"
extras="${1:-}"

say() { printf 'facepipe: %s\n' "$*" >&2; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "$python is missing or older than Python 3.11; name a newer one: PYTHON=python3.11 $0 $extras"
    exit 2
fi

# The stamp is written last: a stopped installation is done again.
stamp="$venv/.facepipe-installed${extras:+-$extras}"
wanted="$root $(cat "$root/pyproject.toml" "$root/infra/constraints.txt" | cksum)"
if [[ -x "$venv/bin/facepipe" && -f "$stamp" && "$(<"$stamp")" == "$wanted" ]]; then
    exit 0
fi
say "installing into $venv"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$root/infra/constraints.txt" --editable "$root${extras:+[$extras]}"
printf '%s\n' "$wanted" >"$stamp"
