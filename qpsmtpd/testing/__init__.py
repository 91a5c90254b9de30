"""The test kit: what a component is tried with, without a socket."""
