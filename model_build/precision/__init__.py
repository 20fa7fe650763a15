"""A model in fewer bits: made, proven to run in them, compared with FP32, and routed to where it is fastest."""
