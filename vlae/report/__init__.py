"""Tables of many runs: `collect` them from a source, make a `table`, write it in a format."""
