"""Lines of text over a serial port or TCP; `serial` and `nmea` share them."""
