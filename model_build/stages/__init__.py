"""The stages of `dvc.yaml`, in their order: data, train, export, repository. Each reads files and writes files."""
