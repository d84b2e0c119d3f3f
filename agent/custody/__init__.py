"""Signed statements of what the outbox took, and the key that signs them."""
