"""Agreement with the cloud, and the durable state that it rests on."""

__version__ = "0.1.0"
