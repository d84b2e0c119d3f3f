"""The pipeline without a broker: `agent once`, `record`, `replay` and the regression gate."""
