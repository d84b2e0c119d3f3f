"""A fleet of simulated nodes in one process: real MQTT, the agent's window, measured up to the ack."""
