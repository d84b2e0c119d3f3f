"""Scenarios: play whole testbeds in one process on one clock, then check what the collector stored."""
