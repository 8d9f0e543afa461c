"""Mirrors of run directories: Weights & Biases, TensorBoard. Each can be made anew from the directory at any time."""
