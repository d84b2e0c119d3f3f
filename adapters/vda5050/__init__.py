"""Adapter for automated vehicles that use VDA 5050 over MQTT."""
