"""BLAKE2b without :mod:`hashlib`, which loads OpenSSL: loading that takes a tenth of a node's start-up time."""

from __future__ import annotations

try:
    from _blake2 import blake2b
except ImportError:  # some builds of Python lack this module
    from hashlib import blake2b

__all__ = ["blake2b"]
