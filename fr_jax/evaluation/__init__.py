"""Networks measured: embed a set once, hand the arrays to metrics."""
