# facepipe on CPUs. Build it with infra/docker/build.sh, or by hand from the checkout's root:
#
#   docker build -f infra/docker/cpu.Dockerfile --target facepipe -t facepipe:0.1.0 .
#   docker build -f infra/docker/cpu.Dockerfile --target beam -t facepipe:0.1.0-beam .
#   docker build -f infra/docker/cpu.Dockerfile --target dataflow -t facepipe:0.1.0-dataflow .
#
# facepipe: the command, with the engines Ray and Beam; also the node of a Ray cluster.
# beam: the same, as the worker that Flink or another portable runner starts.
# dataflow: that one with Google's libraries, which Dataflow asks of its workers.

FROM python:3.11-slim-bookworm AS build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY infra/constraints.txt infra/constraints.txt
COPY infra/docker/constraints.txt infra/docker/constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY facepipe facepipe
COPY pipelines pipelines
COPY training training
# ray[default]: the dashboard and its job server, through which a RayJob is submitted.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --disable-pip-version-check \
        -c infra/constraints.txt -c infra/docker/constraints.txt \
        '.[ray,beam]' 'ray[default]'
# Exactly one OpenCV: a second distribution overwrites the files of the first.
RUN test "$(pip list --format=freeze | grep -c '^opencv')" = 1

FROM python:3.11-slim-bookworm AS facepipe
# libgl1 libglib2.0-0 libxcb1: the opencv-python wheel links them and does not bring them.
# tini: passes SIGTERM on and reaps children. wget: KubeRay's probes call it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libxcb1 tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 facepipe \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp facepipe \
    # A login shell sets PATH anew, and some versions of KubeRay start Ray through one.
    && echo 'export PATH=/opt/venv/bin:$PATH' > /etc/profile.d/facepipe.sh
COPY --from=build /opt/venv /opt/venv
# HOME is /tmp, the one folder that has to be writable: run with a read-only root and a tmpfs.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0
# Loads every native library, so that a missing one fails the build and not the night.
RUN python -c 'import cv2, faiss, onnxruntime, pi_heif, pyarrow.parquet, ray, simplejpeg, apache_beam' \
    && facepipe --version
USER 10001:10001
WORKDIR /tmp
# The models that come with facepipe are in the image; a pack of one's own is mounted at /models,
# and the container is unhealthy, and says why, where that is not whole.
HEALTHCHECK --interval=5m --timeout=60s --start-period=30s \
    CMD if [ -d /models ]; then exec facepipe doctor --models /models; else exec facepipe doctor; fi
ENTRYPOINT ["tini", "--", "facepipe"]
CMD ["--help"]

# The version is apache-beam's of infra/constraints.txt; a test compares them.
FROM apache/beam_python3.11_sdk:2.77.0 AS beam-sdk

FROM facepipe AS beam
COPY --from=beam-sdk /opt/apache/beam /opt/apache/beam
# Use /opt/venv as it is: boot would make a venv of its own, which does not see its packages.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
USER 10001:10001
HEALTHCHECK NONE
ENTRYPOINT ["/opt/apache/beam/boot"]
CMD ["--worker_pool"]

FROM build AS build-dataflow
COPY infra/beam/constraints-gcp.txt infra/beam/constraints-gcp.txt
# Without the pin of cachetools, of which Beam's extra wants an older one.
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -i '/^cachetools==/d' infra/constraints.txt \
    && pip install --disable-pip-version-check \
        -c infra/constraints.txt -c infra/docker/constraints.txt \
        -c infra/beam/constraints-gcp.txt 'apache-beam[gcp]'

FROM beam AS dataflow
COPY --from=build-dataflow /opt/venv /opt/venv
USER 10001:10001
CMD []
