"""One run, a straight line: prepare, train, score, results; and a trained model loaded back."""
