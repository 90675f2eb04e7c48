"""What every layer shares: errors, settings and logging."""
