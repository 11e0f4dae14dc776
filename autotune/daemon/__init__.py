"""The background service: what it watches, when it tunes, and how it makes room."""
