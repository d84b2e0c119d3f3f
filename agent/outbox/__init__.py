"""The outbox: keeps numbered messages on disk until the collector acknowledges them."""

from agent.outbox.committing import keep_committing
from agent.outbox.message import Message
from agent.outbox.outbox import Outbox
from agent.outbox.record import Record
from agent.outbox.settings import OutboxSettings, OutboxStats

__all__ = ["Message", "Outbox", "OutboxSettings", "OutboxStats", "Record", "keep_committing"]
