"""Tests of the plugins that log."""
