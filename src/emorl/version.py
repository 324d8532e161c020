"""The version, which results and weights carry."""

__version__ = "0.1.0"
