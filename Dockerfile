# The service on a CPU, from an export: no Paddle inside.
#   docker build -t ppsolo .
#   docker run --rm -p 8000:8000 -v "$PWD/output/r50_onnx:/model:ro" ppsolo
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY setup.py README.md ./
COPY ppsolo ppsolo
COPY configs configs
# OpenCV without its windows: the container has no display.
RUN pip install ".[onnx,openvino,serve]" \
    && pip uninstall -y opencv-python \
    && pip install opencv-python-headless \
    && useradd --system --uid 10001 --no-create-home ppsolo
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["ppsolo", "serve", "--model_dir", "/model", "--host", "0.0.0.0", "--port", "8000"]
# Which names the service answers to; give those of your own in place of *.
CMD ["--allow_host", "*"]
