"""The command line of `cerememory-recorder`."""
