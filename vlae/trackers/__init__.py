"""Mirrors of run directories on Weights & Biases and for TensorBoard. The one on W&B can be rebuilt at any time."""
