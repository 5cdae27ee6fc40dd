"""The version of the library, alone in a file so that anything may ask for it."""

__version__ = "0.6.0"
