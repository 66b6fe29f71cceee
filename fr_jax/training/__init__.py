"""The training loop, what it trains on, and what it writes."""
