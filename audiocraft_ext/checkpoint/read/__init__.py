"""The contents of a checkpoint's files: configs and memory-mapped state dicts. Builds no model."""
