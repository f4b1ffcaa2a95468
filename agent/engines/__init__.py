"""Backends that run a model. Each is imported only inside a Worker; see `engine.py` for the interface."""
