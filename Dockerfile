# syntax=docker/dockerfile:1
# One image for every role: docker run … node-timeout scan | worker | migrate | check

FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
COPY migrations migrations
RUN python -m venv /app \
 && /app/bin/pip install --no-cache-dir --constraint constraints.txt '.[postgres,mysql]'

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin node-timeout
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
ENTRYPOINT ["node-timeout"]
CMD ["--help"]
