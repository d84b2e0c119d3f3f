"""A bedside monitor that sends HL7 v2 over MLLP."""
