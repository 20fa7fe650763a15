"""Where a model's time goes before it is served: FLOPs, bytes, and what bounds each layer on a named device."""
