# syntax=docker/dockerfile:1
# charlm on a CPU, with the model that comes with it.
#
# Build:     docker build -t charlm .
# Try:       docker run --rm charlm generate -c shakespeare --prompt "ROMEO:"
# Train:     mkdir -p checkpoints
#            docker run --rm -it --user "$(id -u):$(id -g)" -v "$PWD/data:/data:ro" \
#                -v "$PWD/checkpoints:/home/charlm/checkpoints" charlm train /data/corpus.txt
# Generate:  docker run --rm -it --user "$(id -u):$(id -g)" \
#                -v "$PWD/checkpoints:/home/charlm/checkpoints" charlm generate --prompt "Once"
#
# -it shows the progress bar, and Ctrl-C saves and stops. --user makes the files yours.

FROM python:3.12-slim AS build
# For the native engine. The base image determines the version.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/charlm
ENV PATH=/opt/charlm/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY constraints.txt .
# PyTorch's own index has builds without CUDA: a few hundred megabytes instead of several gigabytes.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install -c constraints.txt --index-url "$TORCH_INDEX" torch
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY checkpoints/shakespeare checkpoints/shakespeare
COPY charlm charlm
RUN pip install -c constraints.txt ".[serve]"

FROM python:3.12-slim
# Everyone may write to these folders, because --user may name anyone.
RUN useradd --uid 1000 --no-create-home --home-dir /home/charlm charlm \
    && install -d -m 1777 /data /home/charlm /home/charlm/checkpoints
COPY --from=build /opt/charlm /opt/charlm
COPY --chmod=755 docker-entrypoint.sh /usr/local/bin/
ENV PATH=/opt/charlm/bin:$PATH HOME=/home/charlm PYTHONUNBUFFERED=1
USER 1000
WORKDIR /home/charlm
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["--help"]
