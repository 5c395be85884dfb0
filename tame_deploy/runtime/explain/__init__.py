"""Pictures in, explanations out."""
