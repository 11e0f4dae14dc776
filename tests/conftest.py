"""What holds for every test."""

from __future__ import annotations

import os
import signal

# Before anything imports the standard library's distutils: Inductor's compiler loads setuptools, which
# refuses to take the place of a distutils that is in use.
import setuptools  # noqa: F401

# A shell lets what it starts in the background ignore Ctrl-C, and what is tested would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests share the cores: a thread that spins while it waits for work takes them from the others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
