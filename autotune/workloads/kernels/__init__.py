"""Kernels: C++ for CPUs, compiled when a configuration is built, and Triton for GPUs, a module for each.

A module of Triton kernels imports triton: it is imported where a configuration that needs it is built.
"""
