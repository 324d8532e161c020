"""The explorer: a page where a picture falls apart into objects that can be moved by hand, and a model outside PyTorch.

Nothing else imports this package but the command line.
"""
