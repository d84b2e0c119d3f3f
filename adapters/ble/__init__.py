"""Bluetooth Low Energy devices that notify: heart-rate straps and values of a declared layout."""
