"""Adapter for Bluetooth Low Energy devices: heart-rate straps, and values of a declared layout."""
