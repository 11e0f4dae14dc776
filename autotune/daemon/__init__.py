"""The daemon: one light process that watches devices, owns the history and starts study processes."""
