"""The MQTT connection of the collector."""
