"""Tests of qpsmtpd, laid out as the code that they test."""
