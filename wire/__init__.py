"""The contract between agents, collector and subscribers: messages, topics, codec, clock and errors."""
