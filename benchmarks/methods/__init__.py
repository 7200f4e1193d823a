"""Which negatives are worth having: every method under one protocol, and what became of it."""
