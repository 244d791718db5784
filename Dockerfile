# syntax=docker/dockerfile:1
# One image for every role: docker run … node-timeout scan | worker | serve | migrate | check

FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml DESCRIPTION.md LICENSE constraints.txt ./
COPY src src
COPY migrations migrations
COPY docs/reference/api.openapi.yaml docs/reference/
RUN python -m venv /app \
 && /app/bin/pip install --no-cache-dir --constraint constraints.txt '.[postgres,mysql,web]'

FROM python:3.13-slim
RUN groupadd --gid 10001 node-timeout \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin node-timeout
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Numbers, not names: Kubernetes checks runAsNonRoot by them. Nothing is written while it runs.
USER 10001:10001
ENTRYPOINT ["node-timeout"]
CMD ["--help"]
