"""The outbox: keeps numbered messages on disk until the collector acknowledges them."""

from agent.outbox.message import Message
from agent.outbox.outbox import Outbox, OutboxSettings, OutboxStats, keep_committing
from agent.outbox.reader import Record

__all__ = ["Message", "Outbox", "OutboxSettings", "OutboxStats", "Record", "keep_committing"]
