"""Tests of Triton kernels in Triton's interpreter; see `tests/test_interpreted.py`, which runs them."""

import os

# Triton decides when it is imported whether kernels are interpreted: these tests have a process of their own.
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
