"""Pipelines: what a Worker does with a caller's texts or pictures before the model, and after it."""
