"""Timing, statistics, correctness and ceilings: what a trial's figures are made of."""
