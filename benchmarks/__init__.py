"""Measure qpsmtpd beside other SMTP servers: ``python -m benchmarks --help``."""
