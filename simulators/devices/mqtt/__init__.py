"""Sensors that publish to an MQTT broker, and what such simulators share."""
