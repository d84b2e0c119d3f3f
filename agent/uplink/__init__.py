"""From the outbox to the broker and back: publications, acknowledgements, commands."""
