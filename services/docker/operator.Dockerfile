# The operator: keeps voices as VoiceModel and WorkerPool say.
# From the repository's root:  docker build -f services/docker/operator.Dockerfile -t antiphon-operator:VERSION .
# A mirror is given by build arguments: PIP_INDEX_URL, UV_DEFAULT_INDEX, and SSL_CERT_FILE for its certificates.
ARG BASE=python:3.11-slim

# uv, which reads the lock; the same in every image, so that it is made once.
FROM ${BASE} AS tools
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_NO_CACHE=1 PATH=/opt/uv/bin:$PATH
RUN python3 -m venv /opt/uv && /opt/uv/bin/python -m pip install --quiet --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock ./

FROM tools AS wheel
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
COPY README.md LICENSE ./
COPY services/antiphon services/antiphon
COPY operator operator
RUN uv build --quiet --wheel --out-dir /wheel

# What this image needs beside antiphon itself, as locked: installed again only when the two files change.
FROM tools AS dependencies
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
RUN python3 -m venv --without-pip /opt/antiphon \
 && uv export --quiet --frozen --no-dev --no-emit-project --extra operator --output-file /tmp/locked.txt \
 && uv pip install --quiet --python /opt/antiphon --require-hashes --no-build --compile-bytecode -r /tmp/locked.txt

# Antiphon apart from them: a new version is a small layer.
FROM dependencies AS installed
COPY --from=wheel /wheel /wheel
RUN uv pip install --quiet --python /opt/antiphon --prefix /opt/own --no-deps --compile-bytecode /wheel/*.whl

FROM ${BASE}
COPY --from=dependencies /opt/antiphon /opt/antiphon
COPY --from=installed /opt/own /opt/antiphon
ENV PATH=/opt/antiphon/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
LABEL org.opencontainers.image.title=antiphon-operator org.opencontainers.image.licenses="Apache-2.0"
USER 10001:10001
ENTRYPOINT ["antiphon-operator"]
