# bireal-serve: the service with its models, about as small as its wheels allow.
#
#   docker build --tag bireal-serve .
#   docker buildx build --platform linux/amd64,linux/arm64 --tag bireal-serve .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --stop-timeout 40 \
#     --publish 127.0.0.1:8000:8000 bireal-serve
#
# Docker's own patience with a stop is 10 s, too short for the drain and a request that waits.
# Other models: --volume "$PWD/my-models:/models:ro" (one folder <name>/<version>/ each, with model.onnx and card.yaml).
# Every setting is an environment variable BIREAL_...: docs/settings.md.

# The base by tag. A release pins the digest on top, so that a build can be repeated: the workflow asks the registry for it
# and passes  --build-arg BASE=python:3.11-slim-bookworm@sha256:...  (docs/operations.md, "Images").
ARG BASE=python:3.11-slim-bookworm

# --- Build: the operator is compiled and everything is installed into /opt/bireal ------------------------------------
# hadolint ignore=DL3006
FROM ${BASE} AS build

# Debian's archive drops old versions, so a pinned one would stop building.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Two environments: what compiles stays behind, what runs has not even pip.
COPY requirements/build.lock requirements/runtime.lock /src/requirements/
RUN python -m venv /opt/build \
    && python -m venv --without-pip /opt/bireal \
    && /opt/build/bin/pip install --require-hashes --requirement /src/requirements/build.lock \
    && /opt/build/bin/pip --python /opt/bireal/bin/python install \
        --require-hashes --requirement /src/requirements/runtime.lock

# Only what the wheel is made of: a change elsewhere reuses the layers above.
WORKDIR /src
COPY pyproject.toml CMakeLists.txt README.md ./
COPY service service
RUN PATH="/opt/build/bin:$PATH" pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/bireal/bin/python install --no-deps /wheels/bireal_serve-*.whl

# Files that only other programs' tests, builds and debuggers read, and what of ONNX Runtime converts models offline. Wheels
# whose libraries were patched after linking (numpy, scipy, Pillow) do not survive strip. Then what is left is imported
# once: a trim that took too much ends the build and not the service.
# hadolint ignore=SC2086
RUN site=$(echo /opt/bireal/lib/python3.*/site-packages) \
    && find $site -depth -type d \( -name tests -o -name test \) -exec rm -rf {} + \
    && rm -rf $site/onnx/backend $site/onnxruntime/transformers $site/onnxruntime/tools \
        $site/onnxruntime/quantization $site/onnxruntime/datasets \
    && find $site -type f \( -name '*.pyi' -o -name '*.pxd' -o -name '*.a' -o -name '*.proto' \) -delete \
    && find $site/uvloop $site/httptools $site/yaml -name '*.so' -exec strip --strip-debug {} + \
    && /opt/bireal/bin/python -c "import onnx.checker, onnx.helper, onnx.shape_inference, scipy.stats, uvicorn.loops.uvloop, \
uvicorn.protocols.http.httptools_impl, service.cli.main, service.cli.serve; from service import xnor_op; xnor_op.library_path()" \
    && mkdir /data

# --- Image: Python, /opt/bireal, the models; no compiler, no pip packages beside ours ---------------------------------
# hadolint ignore=DL3006
FROM ${BASE}

# What changes with each build comes from outside, so that the same commit gives the same image.
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="bireal-serve" \
      org.opencontainers.image.description="Serves Bi-Real Net, a 1-bit CNN, beside its full-precision twin" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

# ONNX Runtime's Linux wheel carries a telemetry client: off. Bytecode was compiled when pip installed, so that a
# read-only root file system costs no start-up time.
ENV PATH="/opt/bireal/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    BIREAL_HOST=0.0.0.0 \
    BIREAL_PORT=8000 \
    BIREAL_MODEL_DIR=/models

COPY --from=build /opt/bireal /opt/bireal
COPY models/zoo /models

# Other models are mounted over these. What the service keeps (feedback) goes to a volume: docs/operations.md.
COPY --from=build --chown=10001:10001 /data /data
VOLUME /data

# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
WORKDIR /
EXPOSE 8000

# Ready means that every model is loaded and warm. Python asks, since the image has no curl.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['BIREAL_PORT']}/readyz\", timeout=2)"]

# Exec form: SIGTERM reaches the service, which drains and exits 0.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "service", "serve"]
