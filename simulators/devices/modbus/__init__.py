"""Modbus devices: a particulate sensor and a cobot."""
