#!/usr/bin/env bash
# Set up a bucket of one's own: closed to the public, encrypted, versioned, with its lifecycle.
#
#   infra/s3/setup.sh BUCKET KMS_KEY_ALIAS        e.g. photos-of-ours alias/photos
#
# The bucket and the key exist; needs the AWS CLI. DRY_RUN=1 prints what it would run. Where it
# prints job-policy.json and erasure-policy.json for BUCKET: attach them to roles (README.md).
set -euo pipefail

bucket="${1:?the name of the bucket}"
key="${2:?the alias of the KMS key, alias/..}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

run() { if [[ -n "${DRY_RUN:-}" ]]; then printf '%q ' "$@" && echo; else "$@"; fi; }
filled() { sed -e "s|alias/facepipe-example|$key|g" -e "s|facepipe-example|$bucket|g" "$here/$1.json"; }

run aws s3api put-public-access-block --bucket "$bucket" --public-access-block-configuration \
    BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
run aws s3api put-bucket-versioning --bucket "$bucket" \
    --versioning-configuration Status=Enabled
run aws s3api put-bucket-encryption --bucket "$bucket" \
    --server-side-encryption-configuration "$(filled encryption)"
run aws s3api put-bucket-lifecycle-configuration --bucket "$bucket" \
    --lifecycle-configuration "$(filled lifecycle)"
run aws s3api put-bucket-policy --bucket "$bucket" --policy "$(filled bucket-policy)"
for policy in job-policy erasure-policy; do
    printf '# %s\n' "$policy"
    filled "$policy"
done
