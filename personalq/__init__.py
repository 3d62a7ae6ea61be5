"""Select, quantise and serve personalised text-to-image checkpoints."""

__version__ = "0.1.0"
