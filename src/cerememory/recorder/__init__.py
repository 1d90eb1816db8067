"""The companion that records what clients see."""
