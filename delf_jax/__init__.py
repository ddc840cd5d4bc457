"""Deep local and global image features in JAX: train, match two photos, search many."""

__version__ = "0.1.0"
