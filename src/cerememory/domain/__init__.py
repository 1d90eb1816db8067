"""Pure rules of memory: no I/O, no event loop; the time and randomness are arguments."""
