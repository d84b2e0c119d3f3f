"""OBD-II over CAN: requests to the control unit of a vehicle."""
