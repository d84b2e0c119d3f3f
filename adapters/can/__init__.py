"""CAN through a DBC file: the signals of many messages become one row."""
