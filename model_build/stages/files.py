"""Stage files: hash what the recipe reads and what it is written in, for the stages that depend on it."""

from __future__ import annotations

import json
from pathlib import Path

from model_build.config import ModelConfig
from model_build.files import write_file
from model_build.sources import hashes
from model_build.stages.layout import BuildFiles


def run(workspace: Path, config: ModelConfig) -> str:
    """Return a line that says how many there are."""
    content = hashes(workspace, config)
    write_file(BuildFiles(workspace, config.name).sources, content)
    return f"{len(json.loads(content))} files and folders of the recipe's own"
