"""Tools: what the model can do."""
