# The service alone: what serving imports and nothing of training. It follows MLflow's registry.
FROM python:3.11.14-slim-bookworm AS builder
WORKDIR /build
COPY requirements-serve.lock ./
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --only-binary :all: --no-deps -r requirements-serve.lock

FROM python:3.11.14-slim-bookworm
RUN useradd --uid 1000 --create-home --shell /usr/sbin/nologin perennial
COPY --from=builder /venv /venv
COPY --chmod=755 ops/docker/perennial /usr/local/bin/perennial
COPY ops/docker/healthy.py /healthy.py
ENV PATH=/venv/bin:$PATH PYTHONPATH=/project PERENNIAL_ROOT=/project \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /project
USER 1000:1000
EXPOSE 3000
HEALTHCHECK CMD ["python", "/healthy.py", "http://127.0.0.1:3000/livez"]
CMD ["perennial", "serve", "flights", "--host", "0.0.0.0"]
