"""What a checkpoint's files are: configs and memory-mapped state dicts. Builds no model."""
