"""Real programs that tests talk to, installed by ``tests/services/install``."""
