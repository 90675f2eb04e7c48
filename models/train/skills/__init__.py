"""What the model can do: each skill makes questions with their right answers."""
