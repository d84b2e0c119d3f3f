"""Benchmarks: each figure beside a named peer or limit in one run; `make bench` writes results.md.

`bench.hops` is not part of it: it counts what one batch passes through in edgebed's code.
"""
