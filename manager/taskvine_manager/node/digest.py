"""BLAKE2b without :mod:`hashlib`, which loads OpenSSL: that takes a tenth of the time in which a node starts."""

from __future__ import annotations

try:
    from _blake2 import blake2b
except ImportError:  # a Python that takes it from elsewhere
    from hashlib import blake2b

__all__ = ["blake2b"]
