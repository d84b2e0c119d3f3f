"""Scenarios: whole testbeds played in one process on one clock, and judged by what the collector stored."""
