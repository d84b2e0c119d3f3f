"""Adapter that plays recorded readings from CSV or JSON lines."""
