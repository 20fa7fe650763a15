# NVIDIA's Triton with what this repository's Python models import: its own ONNX Runtime and TensorRT backends serve
# the rest. The tag is the release that model_build/target.py exports for; the digest is what is pulled.
# Build from the repository's folder: docker build -f serving/gpu.Dockerfile .
FROM nvcr.io/nvidia/tritonserver:26.08-py3@sha256:9185ba5b33d2c85c9204b208957b4bbfc6b2b89066efc9192e0f60c2ab58cec0

COPY serving/requirements-models.txt /tmp/
RUN pip install --no-cache-dir --no-deps --break-system-packages -r /tmp/requirements-models.txt

USER 1000:1000
EXPOSE 8000 8001 8002
CMD ["tritonserver", "--model-repository=/models"]
