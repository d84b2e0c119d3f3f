"""Adapter for bedside monitors that send HL7 v2 observation reports over MLLP; de-identifies them."""
