"""Tests of the protocol layer, which does no I/O."""
