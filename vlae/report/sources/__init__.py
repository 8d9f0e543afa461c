"""Places that runs are read from: run directories, Weights & Biases."""
