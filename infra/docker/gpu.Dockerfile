# facepipe on NVIDIA GPUs: detection and embedding on CUDA, for the GPU workers of a Ray cluster.
#
#   docker build -f infra/docker/gpu.Dockerfile -t facepipe:0.1.0-gpu .
#
# Python is that of cpu.Dockerfile: all nodes of a Ray cluster need the same minor version, and
# Ubuntu's own is another. The driver is the host's, through the NVIDIA container toolkit.

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
# onnxruntime-gpu and faiss-gpu write the folders of onnxruntime and faiss-cpu, which facepipe
# and insightface require: the GPU files have to be the last ones written (pyproject.toml).
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --disable-pip-version-check \
        -c infra/constraints.txt -c infra/docker/constraints.txt \
        '.[ray,gpu]' 'ray[default]' \
    && pip uninstall -y onnxruntime faiss-cpu \
    && pip install --disable-pip-version-check --force-reinstall --no-deps \
        -c infra/constraints.txt onnxruntime-gpu faiss-gpu
RUN test "$(pip list --format=freeze | grep -c '^opencv')" = 1

# CUDA 13 with cuDNN 9 is what onnxruntime-gpu is built for; faiss-gpu brings its CUDA 12 along.
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS facepipe
# First line as in cpu.Dockerfile; the others are what Python links that python:3.11-slim has.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libgl1 libglib2.0-0t64 libxcb1 tini wget \
        ca-certificates netbase tzdata libssl3t64 libffi8 libsqlite3-0 zlib1g libbz2-1.0 \
        liblzma5 libreadline8t64 libncursesw6 libuuid1 libgdbm6t64 libdb5.3t64 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 facepipe \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp facepipe \
    && echo 'export PATH=/opt/venv/bin:$PATH' > /etc/profile.d/facepipe.sh
COPY --from=build /usr/local/bin /usr/local/bin
COPY --from=build /usr/local/lib /usr/local/lib
COPY --from=build /opt/venv /opt/venv
RUN ldconfig
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# No GPU is there while building: that CUDA is compiled in is what can be asked.
RUN python -c 'import ssl, ctypes, sqlite3, lzma, bz2, cv2, pi_heif, pyarrow.parquet, ray, simplejpeg' \
    && python -c 'import onnxruntime; assert "CUDAExecutionProvider" in onnxruntime.get_available_providers()' \
    && facepipe --version
USER 10001:10001
WORKDIR /tmp
HEALTHCHECK --interval=5m --timeout=60s --start-period=30s \
    CMD if [ -d /models ]; then exec facepipe doctor --models /models; else exec facepipe doctor; fi
ENTRYPOINT ["tini", "--", "facepipe"]
CMD ["--help"]
