"""What a model card says, checked."""
