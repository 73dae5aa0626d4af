"""Context managers: what the model is shown of the conversation."""
