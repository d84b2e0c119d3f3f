"""Sends the outbox to the broker; receives acknowledgements and commands."""
