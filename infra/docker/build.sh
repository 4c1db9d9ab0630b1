#!/usr/bin/env bash
# Build the container images, tagged with the version of this checkout.
#
#   infra/docker/build.sh [IMAGE]      IMAGE: name without a tag (default: facepipe)
#
# Makes IMAGE:VERSION, IMAGE:VERSION-beam and IMAGE:VERSION-gpu. FACEPIPE_IMAGES="cpu dataflow"
# builds these instead. Needs Docker with BuildKit. The manifests of infra/ray and infra/beam name
# registry.example.com/facepipe: put your own there (infra/README.md).
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
image="${1:-facepipe}"
version="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/facepipe/__init__.py")"

build() { # DOCKERFILE TARGET TAG
    docker build --file "$root/infra/docker/$1.Dockerfile" --target "$2" --tag "$image:$3" "$root"
}

for kind in ${FACEPIPE_IMAGES:-cpu beam gpu}; do
    case "$kind" in
    cpu) build cpu facepipe "$version" ;;
    beam) build cpu beam "$version-beam" ;;
    dataflow) build cpu dataflow "$version-dataflow" ;;
    gpu) build gpu facepipe "$version-gpu" ;;
    *)
        printf 'facepipe: no image %q; there are cpu, beam, dataflow, gpu\n' "$kind" >&2
        exit 2
        ;;
    esac
done
