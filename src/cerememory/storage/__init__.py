"""How memories lie on disk: rows, keys, transactions, indexes, the audit file, the data dir."""
