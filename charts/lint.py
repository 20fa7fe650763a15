"""Lints every chart with each of its ci/*-values.yaml, through Helm's SDK: no helm on the PATH is needed."""

import sys
from pathlib import Path

import helm_python
import yaml


def main() -> int:
    """Print each finding of Helm's linter; 1 when there is one beyond advice."""
    found = 0
    for values in sorted(Path(__file__).parent.glob("*/ci/*-values.yaml")):
        chart = values.parent.parent
        report = helm_python.lint(chart, yaml.safe_load(values.read_text()), strict=True)
        problems = [message for message in report["messages"] if message["severity"] > 1]
        for problem in problems:
            print(f"{values}: {problem['path']}: {problem['error']}", file=sys.stderr)
        found += len(problems)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
