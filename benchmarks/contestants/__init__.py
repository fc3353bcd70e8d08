"""What others do with the same events."""
