"""The version, which results and weights carry."""

__version__ = "0.2.0.dev1"
