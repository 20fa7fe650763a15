"""Locust drives a served model; see `locustfile.py`."""
