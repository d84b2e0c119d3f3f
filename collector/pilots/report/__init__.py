"""The report of a pilot: one JSON document with codes and numbers, and pages in two languages made of it."""
