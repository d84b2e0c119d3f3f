"""The daemon beside a device: sensor -> adapter -> pipeline -> model -> outbox -> uplink."""
