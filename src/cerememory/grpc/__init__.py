"""CMP over gRPC: the same operations, keys and limits as over HTTP, on a port of its own."""
