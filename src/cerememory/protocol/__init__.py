"""CMP as types: records, requests, replies, limits, the JSON codec and the operation table."""
