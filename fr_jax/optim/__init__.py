"""Optimisers, schedules and averages of parameters."""
