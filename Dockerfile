# A server in a container: `docker build -t llama-canister .`, `docker run -p 127.0.0.1:8000:8000 -v canister:/data llama-canister`.
# llama.cpp is compiled for the processor that builds the image. For an image that runs on any x86-64 processor with AVX2:
#   docker build --build-arg CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON" …

FROM python:3.12-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python -m venv /opt/llama-canister
# llama.cpp first: it takes minutes, and a change of our own code leaves this layer as it is.
COPY pyproject.toml ./
COPY scripts/llama_wheel.py scripts/
ARG CMAKE_ARGS=""
RUN /opt/llama-canister/bin/python scripts/llama_wheel.py --cache /tmp/wheels && rm -rf /tmp/wheels
COPY README.md LICENSE ./
COPY models/llama-canister-tiny.gguf models/
COPY samples/ao/packages samples/ao/packages
COPY canister canister
# Extras such as `herd`, for a machine or the door of a herd: --build-arg EXTRAS=herd
ARG EXTRAS=""
RUN /opt/llama-canister/bin/pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.12-slim-bookworm
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home canister \
    && install -d -o canister -g canister -m 700 /data
COPY --from=build /opt/llama-canister /opt/llama-canister
ENV PATH=/opt/llama-canister/bin:$PATH \
    CANISTER_HOST=0.0.0.0 \
    CANISTER_PORT=8000 \
    CANISTER_DATA_DIR=/data \
    CANISTER_LOG_FORMAT=json
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"CANISTER_PORT\"]}/healthz', timeout=4)"]
# The container's own restart policy stands in for the supervisor: exit codes count.
CMD ["canister", "serve", "--no-supervise"]
