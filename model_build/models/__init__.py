"""The reference models and their data."""
