"""Tests of the plugins that queue."""
