"""From control files to settings, components and a chain."""
