"""The database: day files of rows, events and the marks of the ledger."""
