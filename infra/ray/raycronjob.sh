#!/usr/bin/env bash
# Print a RayCronJob of infra/ray/rayjob.yaml, in place of nightly.yaml.
#
#   infra/ray/raycronjob.sh ['30 1 * * *'] | kubectl apply -f -
#
# Needs KubeRay 1.6 with the feature gate RayCronJob, alpha there. It has no concurrencyPolicy:
# where a night is still running when the next one starts, the dataset's lease turns the second
# one away. The RayJob's deadline keeps them apart.
set -euo pipefail

schedule="${1:-30 1 * * *}"
rayjob="$(dirname "${BASH_SOURCE[0]}")/rayjob.yaml"

cat <<YAML
apiVersion: ray.io/v1
kind: RayCronJob
metadata:
  name: facepipe-nightly
  labels: {app.kubernetes.io/name: facepipe}
spec:
  schedule: "$schedule"
  jobTemplate:
YAML
# What is below `spec:`, two columns further in.
sed -e '1,/^spec:$/d' -e 's/^./  &/' "$rayjob"
