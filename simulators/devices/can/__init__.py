"""The CAN bus of a vehicle behind a serial CAN adapter, with a control unit that answers OBD-II."""
