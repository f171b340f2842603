"""ggml blocks: types, encoders, decoders."""
