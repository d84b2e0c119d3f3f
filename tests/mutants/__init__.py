"""Mutation tests: one change at a time in the code; the unit tests that mirror the module must notice it."""
