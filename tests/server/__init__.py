"""Tests of the server: protocol, factory, and what stands at their edges."""
