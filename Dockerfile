# The demo's upstream, proxy and load, in one image without build tools: docker-compose.yml says which one runs.
FROM python:3.13-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY otel_sessions ./otel_sessions
ENV UV_PROJECT_ENVIRONMENT=/opt/otel-sessions UV_PYTHON=/usr/local/bin/python3 UV_PYTHON_DOWNLOADS=never
RUN uv sync --quiet --frozen --no-cache --no-dev --no-editable --compile-bytecode --extra demo --extra fleet

FROM python:3.13-slim-bookworm
RUN pip uninstall --yes pip && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin otel-sessions
COPY --from=build /opt/otel-sessions /opt/otel-sessions
COPY docker/probe.py /opt/probe.py
ENV PATH=/opt/otel-sessions/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8080
ENTRYPOINT ["otel-sessions"]
CMD ["--help"]
