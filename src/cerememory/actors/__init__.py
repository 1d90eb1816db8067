"""The isolated actors, their supervisor, and the engine that asks them."""
