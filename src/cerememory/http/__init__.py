"""CMP over HTTP."""
