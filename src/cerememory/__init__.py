"""Cerememory: a living memory for AI agents, as a daemon, a command line and a library."""

__version__ = "0.1.0"
