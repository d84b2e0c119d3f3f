"""Modbus TCP and RTU, read through a register map."""
