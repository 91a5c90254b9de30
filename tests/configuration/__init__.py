"""Tests of :mod:`qpsmtpd.configuration`."""
