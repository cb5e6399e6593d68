# bireal-serve: the service with its models, in about the smallest image that its wheels allow.
#
#   docker build --tag bireal-serve .
#   docker buildx build --platform linux/amd64,linux/arm64 --tag bireal-serve .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --stop-timeout 40 \
#     --publish 127.0.0.1:8000:8000 bireal-serve
#
# Docker's default stop timeout of 10 s is too short for the drain and a waiting request.
# Other models: --volume "$PWD/my-models:/models:ro" (one folder <name>/<version>/ each, with model.onnx and card.yaml).
# Every setting is an environment variable BIREAL_...: docs/settings.md.

# The base image by tag. For reproducible builds, the release workflow also pins the digest, which it queries from the
# registry:  --build-arg BASE=python:3.11-slim-bookworm@sha256:...  (docs/operations.md, "Images").
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

# Two environments: the build tools are left behind, and the runtime environment does not even have pip.
COPY requirements/build.lock requirements/runtime.lock /src/requirements/
RUN python -m venv /opt/build \
    && python -m venv --without-pip /opt/bireal \
    && /opt/build/bin/pip install --require-hashes --requirement /src/requirements/build.lock \
    && /opt/build/bin/pip --python /opt/bireal/bin/python install \
        --require-hashes --requirement /src/requirements/runtime.lock

# Only the wheel's sources, so that other changes reuse the layers above.
WORKDIR /src
COPY pyproject.toml CMakeLists.txt README.md ./
COPY service service
RUN PATH="/opt/build/bin:$PATH" pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/bireal/bin/python install --no-deps /wheels/bireal_serve-*.whl

# Remove files used only by tests, builds and debuggers, and ONNX Runtime's offline model tools. Libraries that were
# patched after linking (numpy, scipy, Pillow) do not survive strip. Importing the rest makes the build fail if too much
# was removed.
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

# COPY keeps the modes of the checkout, which depend on its umask. The image's user must be able to read the models.
COPY models/zoo /models
RUN chmod -R u=rwX,go=rX /models

# --- Image: Python, /opt/bireal and the models; no compiler, no pip ---------------------------------------------------
# hadolint ignore=DL3006
FROM ${BASE}

# The base brings pip, setuptools and wheel (with copies inside ensurepip) for its own Python. Nothing here uses them, and
# scanners report their vulnerabilities. Removed by path: pip could not remove itself from where it is missing.
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip \
        /usr/local/bin/pip* /usr/local/bin/wheel* /usr/local/bin/easy_install*

# Values that change with each build are passed in, so that the same commit gives the same image.
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="bireal-serve" \
      org.opencontainers.image.description="Serves Bi-Real Net, a 1-bit CNN, beside its full-precision twin" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

# Disable the telemetry client of ONNX Runtime's Linux wheel. Bytecode was compiled during pip's installation, so a
# read-only root file system does not slow down the start.
ENV PATH="/opt/bireal/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    BIREAL_REVISION="${REVISION}" \
    BIREAL_HOST=0.0.0.0 \
    BIREAL_PORT=8000 \
    BIREAL_MODEL_DIR=/models

COPY --from=build /opt/bireal /opt/bireal
COPY --from=build /models /models

# Mount other models over these. The service stores its data (feedback) in a volume: docs/operations.md.
COPY --from=build --chown=10001:10001 /data /data
VOLUME /data

# Numeric, so that Kubernetes can verify that it is not root.
USER 10001:10001
WORKDIR /
EXPOSE 8000

# Ready means that every model is loaded and warmed up. The image has no curl, so Python sends the request, past the proxies
# that Docker sets in containers if ~/.docker/config.json names some.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ['BIREAL_PORT']}/readyz\", timeout=2)"]

# Exec form: SIGTERM reaches the service, which drains and exits 0.
STOPSIGNAL SIGTERM
CMD ["python", "-m", "service", "serve"]
