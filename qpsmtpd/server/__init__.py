"""Twisted glue: transports, machine and chain, joined."""
