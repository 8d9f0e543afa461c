"""Mirrors of run directories: Weights & Biases, TensorBoard. That on W&B can be made anew at any time."""
