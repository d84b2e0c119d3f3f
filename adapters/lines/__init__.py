"""Lines of text over a serial port or TCP: shared by `serial` and `nmea`."""
