"""CMP over HTTP, from the caller's side."""
