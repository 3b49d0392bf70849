# charlm on a CPU. Build:   docker build -t charlm .
# Train:    docker run --rm -v "$PWD/data:/data" -v "$PWD/checkpoints:/home/charlm/checkpoints" charlm train /data/corpus.txt
# Generate: docker run --rm -v "$PWD/checkpoints:/home/charlm/checkpoints" charlm generate --prompt "Once"

FROM python:3.12-slim AS build
# The native engine is built with the package.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
RUN python -m venv /opt/charlm
ENV PATH=/opt/charlm/bin:$PATH
COPY constraints.txt .
# PyTorch's own index has builds without CUDA: a few hundred megabytes instead of several gigabytes.
RUN pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml setup.py README.md ./
COPY charlm charlm
RUN pip install --no-cache-dir -c constraints.txt .

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 charlm && mkdir -p /data /home/charlm/checkpoints \
    && chown charlm:charlm /data /home/charlm/checkpoints
COPY --from=build /opt/charlm /opt/charlm
ENV PATH=/opt/charlm/bin:$PATH PYTHONUNBUFFERED=1
USER charlm
WORKDIR /home/charlm
VOLUME ["/data", "/home/charlm/checkpoints"]
ENTRYPOINT ["charlm"]
CMD ["--help"]
