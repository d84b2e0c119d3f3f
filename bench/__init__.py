"""Figures as ratios, ours beside a named peer or limit in one run; `make bench` writes results.md."""
