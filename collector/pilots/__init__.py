"""Pilots: what a plan asks, and whether the change had an effect."""
