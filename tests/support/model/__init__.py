"""What a namespace remembers, in plain dicts: a second writing of the engine's specification, to compare with.

Model: nothing fails, nothing waits, there are no indexes, and time is an argument. It is made to be read beside
the specification, not to be fast: decay is counted from each memory's base, what changes a store's exponents moves
every memory of it at once, activation tries every way, and a search reads every word.
"""
