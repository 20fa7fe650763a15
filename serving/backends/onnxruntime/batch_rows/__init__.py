"""Whether the rows of a batch stay apart in an ONNX graph: row i of each output depends on row i of the inputs alone.

Only then may requests be joined into one run and its outputs be cut up again. The names and sizes that outputs declare
prove nothing, so the graph is followed from its inputs: each tensor is inferred twice, for batches of two sizes, and
the rule of each operator says where the batch lies in what it gives.

Read by the embedded backend when it loads a model, and by `slipway build` before it writes config.pbtxt.
"""

from .walk import Verdict, examine, read_graph

__all__ = ["Verdict", "examine", "read_graph"]
