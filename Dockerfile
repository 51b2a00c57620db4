# Two stages: the first has a compiler, the second runs. Build: docker build -t sise .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/run.txt requirements/build.txt requirements/
RUN python -m venv /opt/sise && /opt/sise/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt \
 && python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY native_pipeline native_pipeline
COPY daemon daemon
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index -w /tmp/wheels . \
 && /opt/sise/bin/pip install --no-deps --no-index /tmp/wheels/*.whl

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 sise && useradd --uid 10001 --gid sise --home-dir /var/lib/sise --shell /usr/sbin/nologin sise \
 && install -d -o sise -g sise -m 0700 /var/lib/sise /var/lib/sise/failed_batches /var/lib/sise/raw && install -d /etc/sise
COPY --from=builder /opt/sise /opt/sise
ENV PATH=/opt/sise/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER sise
WORKDIR /var/lib/sise
VOLUME /var/lib/sise
EXPOSE 9464
STOPSIGNAL SIGTERM
# Alive, not ready: a database outage must not restart the collector.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/healthz', timeout=2)"]
ENTRYPOINT ["sise"]
CMD ["run", "-c", "/etc/sise/sise.toml"]
