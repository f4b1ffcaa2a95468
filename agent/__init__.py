"""The edge agent: doors, serving, supervisor and the Workers that run models."""

from cloud_sync import __version__

__all__ = ["__version__"]
