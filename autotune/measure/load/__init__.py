"""Open-loop load: arrivals, a batching loop with prefill and decode, and the figures of what came of it."""
