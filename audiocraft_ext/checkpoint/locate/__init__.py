"""Where a checkpoint's bytes are. Knows nothing of what they mean."""
