# The init container of a release: DVC with S3, and the git half of the model repository with the dvc.lock that names
# its weights. Build from the repository's folder: docker build -f serving/weights.Dockerfile .
FROM python:3.11-slim-bookworm

# Versions are those of the tools' environment.
COPY requirements.lock /tmp/
RUN pip install --no-cache-dir --constraint /tmp/requirements.lock 'dvc[s3]' PyYAML

WORKDIR /workspace
COPY serving/*.py serving/
COPY .dvcignore dvc.yaml dvc.lock ./
COPY model_repository model_repository

# DVC asks for the user's name, which the system has not got for any uid that the cluster may choose.
ENV PYTHONDONTWRITEBYTECODE=1 USER=slipway
USER 1000:1000
CMD ["python3", "-m", "serving.weights"]
