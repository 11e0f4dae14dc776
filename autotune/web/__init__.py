"""The read-only site over the history: `autotune web`. It reads beside the daemon and writes nothing."""
