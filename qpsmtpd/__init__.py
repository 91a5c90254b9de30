"""qpsmtpd: pluggable middleware for SMTP, on Twisted.

This package imports nothing, so that :mod:`qpsmtpd.smtp`, the protocol without
I/O, loads without Twisted.
"""

from typing import Final

__all__ = ["__version__"]

__version__: Final = "2.0.0.dev0"
