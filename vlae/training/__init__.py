"""The objective and the training loop."""
