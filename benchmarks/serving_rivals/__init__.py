"""The servers that the service is held against: one file each, run by `benchmarks/serving.py`."""
