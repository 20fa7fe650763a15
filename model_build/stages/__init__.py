"""The stages of `dvc.yaml` in their order: data, train, export, infer, repository. Each reads and writes files."""
