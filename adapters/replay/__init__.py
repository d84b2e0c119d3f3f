"""Recorded readings from CSV or JSON lines."""
