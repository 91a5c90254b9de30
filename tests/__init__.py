"""Tests of qpsmtpd, laid out as the code that they test."""

from hypothesis import HealthCheck, settings

# A busy machine is no failure: no test has a limit on the time of one example.
settings.register_profile(
    "qpsmtpd", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("qpsmtpd")
