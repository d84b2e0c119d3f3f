"""The way from readings to messages: validation, batches, windows, models, events, pictures."""
