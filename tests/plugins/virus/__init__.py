"""Tests of the plugins that look for viruses."""
