"""emorl: objects in images without labels, a disentangled code for each."""

__version__ = "0.1.0"
