"""Benchmarks: files, a hub or a generator -> `MultiHopExample`."""
