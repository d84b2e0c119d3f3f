"""The identity of a site: its authorities, certificates and broker configuration in one folder."""
