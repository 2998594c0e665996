# docker build -t pointsman . && docker run -p 127.0.0.1:50051:50051 -p 127.0.0.1:8080:8080 -v pointsman:/data pointsman
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY proto proto
COPY bandit bandit
COPY server server
COPY sim sim
RUN python -m venv /opt/pointsman \
 && /opt/pointsman/bin/pip install --no-cache-dir --constraint requirements.lock '.[otel,postgres]'

FROM python:3.12-slim
RUN useradd --system --home-dir /data --uid 10001 pointsman && install --directory --mode 700 --owner pointsman /data
COPY --from=build /opt/pointsman /opt/pointsman
ENV PATH=/opt/pointsman/bin:$PATH OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
USER pointsman
VOLUME /data
EXPOSE 50051 8080
HEALTHCHECK --interval=10s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
ENTRYPOINT ["pointsman"]
# Within the container all addresses are its own; publish its ports on loopback, or give it certificates and tokens.
CMD ["serve", "--listen", "0.0.0.0:50051", "--http", "0.0.0.0:8080", "--data-dir", "/data", "--insecure"]
