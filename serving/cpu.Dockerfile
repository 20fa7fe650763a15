# Triton for machines without a GPU, in the layout of NVIDIA's image: the chart starts both with the same command.
# Build from the repository's folder: docker build -f serving/cpu.Dockerfile .
FROM python:3.11-slim-bookworm AS build

# The same file makes .venv-triton. Of the wheel, its Python API and the stubs of other Pythons stay behind.
COPY serving/requirements.txt serving/requirements-models.txt /tmp/
RUN pip install --no-cache-dir --no-deps --target /python -r /tmp/requirements.txt \
    && mkdir /opt/tritonserver \
    && mv /python/pytriton/tritonserver/bin /python/pytriton/tritonserver/backends \
        /python/pytriton/tritonserver/caches /opt/tritonserver/ \
    && mv /python/pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub \
        /opt/tritonserver/backends/python/ \
    && mv /python/nvidia_pytriton.libs /opt/tritonserver/lib \
    && rm -r /python/pytriton /python/nvidia_pytriton-*.dist-info /python/bin

FROM python:3.11-slim-bookworm

COPY --from=build /opt/tritonserver /opt/tritonserver
COPY --from=build /python /opt/python
COPY serving/backends/ /opt/tritonserver/backends/
COPY client/slipway_client/_onnx/ /opt/tritonserver/backends/onnxruntime/_onnx/
COPY serving/_limits.py /opt/tritonserver/bin/with_large_stack.py

ENV PATH=/opt/tritonserver/bin:$PATH \
    LD_LIBRARY_PATH=/opt/tritonserver/lib \
    PYTHONDONTWRITEBYTECODE=1
# Triton's stub ignores PYTHONPATH: its interpreter finds the packages through a .pth file.
RUN echo /opt/python > "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/slipway.pth" \
    && python3 -c 'import numpy, onnx, onnxruntime, tokenizers'

USER 1000:1000
EXPOSE 8000 8001 8002
ENTRYPOINT ["python3", "/opt/tritonserver/bin/with_large_stack.py"]
CMD ["tritonserver", "--model-repository=/models", "--model-config-name=cpu"]
