"""Topics that devices publish to an MQTT broker; shared by `vda5050` and `chirpstack`."""
