"""Publishing, independent of where the messages go."""
