"""The edge agent: doors, serving, supervisor and the Workers that run models."""

__version__ = "0.1.0"
