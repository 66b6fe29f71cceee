"""Figures from arrays, written to PNG."""
