"""What holds for every test."""

from __future__ import annotations

# Before anything imports the standard library's distutils: Inductor's compiler loads setuptools, which
# refuses to take the place of a distutils that is in use.
import setuptools  # noqa: F401
