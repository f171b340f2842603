"""MLX quantized tensors."""
