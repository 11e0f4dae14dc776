"""Fleets: what equal nodes share through PostgreSQL. Needs the extra `autotune[fleet]`.

Nothing here is imported by look-ups, nor by the daemon's main process: the network is a process of its own.
"""
