"""Adapter for LoRaWAN sensors of a ChirpStack v4 network server."""
