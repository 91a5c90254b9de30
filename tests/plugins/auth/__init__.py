"""Tests of the plugins that authenticate."""
