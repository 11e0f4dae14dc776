"""The isolated process that runs trials, and the study's end of it."""
