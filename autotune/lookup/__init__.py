"""The parts of a look-up; `autotune.client` puts them together.

All of it stays within the standard library, and on the way to an exact answer within its lightest modules:
no `re`, `json`, `typing`, `enum`, `dataclasses`, `tomllib` or `socket`, which cost 5 to 16 ms each to import.
"""
