#!/usr/bin/env bash
# Run `facepipe curate` on Google Cloud Dataflow.
#
#   PROJECT=.. REGION=.. BUCKET=.. IMAGE=.. infra/beam/dataflow.sh SRC.. --out DATASET [OPTION..]
#
# SRC and DATASET are gs:// URIs; the options are those of `facepipe curate`. IMAGE is the target
# `dataflow` of infra/docker/cpu.Dockerfile. It has the models that come with facepipe, of the
# version that is to be installed here too; --models names another pack's folder that is in IMAGE,
# under the same path as here. SERVICE_ACCOUNT (default: facepipe@PROJECT) and
# SUBNETWORK (default: the region's `default`) name the worker's; MAX_WORKERS, MACHINE_TYPE the
# size. DRY_RUN=1 prints the command.
#
# Needs apache-beam[gcp] here too, at the versions of infra/beam/constraints-gcp.txt.
set -euo pipefail

: "${PROJECT:?the Google Cloud project}" "${REGION:?the region, e.g. europe-west3}"
: "${BUCKET:?the bucket for staging, without gs://}" "${IMAGE:?the image, by its full name and tag}"

options=(
    --runner=DataflowRunner
    --project="$PROJECT"
    --region="$REGION"
    --job_name="facepipe-curate-$(date -u +%Y%m%d-%H%M%S)"
    --temp_location="gs://$BUCKET/tmp"
    --staging_location="gs://$BUCKET/staging"
    --service_account_email="${SERVICE_ACCOUNT:-facepipe@$PROJECT.iam.gserviceaccount.com}"
    --subnetwork="regions/$REGION/subnetworks/${SUBNETWORK:-default}"
    --no_use_public_ips
    # The image has everything: nothing is installed when a worker starts.
    --sdk_container_image="$IMAGE"
    --sdk_location=container
    # A process a core, as everywhere, and one thread in it: more threads would share one GIL and
    # each open the models again. 4 GB a core hold a worker four times over.
    --machine_type="${MACHINE_TYPE:-n2-standard-8}"
    --number_of_worker_harness_threads=1
    --disk_size_gb=50
    --max_num_workers="${MAX_WORKERS:-16}"
    --autoscaling_algorithm=THROUGHPUT_BASED
    # Runner v2 alone runs custom containers.
    --experiments=use_runner_v2
)

command=("${FACEPIPE:-facepipe}" curate "$@" --engine beam -- "${options[@]}")
if [[ -n "${DRY_RUN:-}" ]]; then
    printf '%q ' "${command[@]}"
    printf '\n'
    exit
fi
exec "${command[@]}"
