"""Adapter for GNSS receivers that send NMEA 0183."""
