"""Models that are one ONNX file: for `local:`, and for the embedded server's backend, which takes this folder with it.

One meaning of config.pbtxt for both. Needs ONNX Runtime, and nothing else of this package.
"""

from .config import Config, Refused, complete, model_path, open_session
from .graph import OnnxGraph, WrongInput, read_bits, to_ort_value

__all__ = [
    "Config",
    "OnnxGraph",
    "Refused",
    "WrongInput",
    "complete",
    "model_path",
    "open_session",
    "read_bits",
    "to_ort_value",
]
