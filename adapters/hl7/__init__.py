"""HL7 v2 observation reports of bedside monitors over MLLP, de-identified."""
