"""What did the model learn? Scores on held-out text, and generations."""
