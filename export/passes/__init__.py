"""Passes over a network's graph: how the picture goes in, and what its numbers are kept in."""
