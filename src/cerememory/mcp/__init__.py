"""The Model Context Protocol: tools, and the stdio proxy."""
