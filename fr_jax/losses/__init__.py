"""Losses as pure functions: arrays in, per-example values out, no parameters."""
