"""One page on a built model: what, from what, how good, how fast, and why it is served as it is."""

from model_build.report.facts import golden_inputs, served_folders
from model_build.report.page import write_report

__all__ = ["golden_inputs", "served_folders", "write_report"]
