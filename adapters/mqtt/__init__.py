"""Adapter for topics that devices publish to an MQTT broker; `vda5050` and `chirpstack` use its parts."""
