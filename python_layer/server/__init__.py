"""HTTP in front of the model."""
