"""Fine-tuning: data set → tokens → training loop → archive. Nothing in the package imports it, only train.py does."""
