"""Figures as ratios, ours beside a named peer or limit in one run; `make bench` writes results.md.

`bench.hops` stands apart: it counts what one batch passes through in our own code.
"""
