"""Lets ``twistd`` find the server: ``twistd qpsmtpd``."""

from twisted.application.service import ServiceMaker

qpsmtpd = ServiceMaker(
    "qpsmtpd",
    "qpsmtpd.tap",
    "An SMTP server whose every decision is a plugin's.",
    "qpsmtpd",
)
