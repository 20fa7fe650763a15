"""One process of raw ONNX Runtime: `_raw.py MODEL.onnx BATCH SECONDS` prints inferences a second.

It says "ready" once it is warm and begins when a line comes on standard input, so that several run at once.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime as ort


def main() -> None:
    """Warm up, wait, measure, print."""
    path, batch, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    node = session.get_inputs()[0]
    feed = {node.name: np.random.default_rng(0).random((batch, *node.shape[1:]), np.float32)}
    for _ in range(200):
        session.run(None, feed)
    print("ready", flush=True)
    sys.stdin.readline()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        session.run(None, feed)
        count += batch
    print(count / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
