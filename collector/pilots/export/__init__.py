"""The data of a pilot for third parties: Parquet files, Croissant metadata, and the sums of both."""
