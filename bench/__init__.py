"""Benchmarks: each figure beside a named peer or limit in one run; `make bench` writes results.md."""
