# Airflow, MLflow, DVC and perennial, for every part of compose.yaml but the service.
# The project itself is mounted: a retraining ends as a commit in it.
FROM python:3.11.14-slim-bookworm AS builder
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy VIRTUAL_ENV=/venv
WORKDIR /build
COPY requirements.lock ./
RUN python -m venv /venv \
    && pip install --no-cache-dir uv==0.13.8 \
    && UV_TORCH_BACKEND=cpu uv pip install --no-cache -r requirements.lock

FROM python:3.11.14-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends git=1:2.39.* libgomp1=12.* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home --shell /usr/sbin/nologin perennial \
    && install -d -o perennial -g perennial /state /artifacts
COPY --from=builder /venv /venv
# The project is found by PYTHONPATH, and its command by this file.
COPY --chmod=755 ops/docker/perennial /usr/local/bin/perennial
COPY ops/docker/healthy.py /healthy.py
ENV PATH=/venv/bin:$PATH PYTHONPATH=/project PERENNIAL_ROOT=/project \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /project
USER 1000:1000
HEALTHCHECK CMD ["python", "-c", "import pipelines"]
CMD ["perennial", "--help"]
