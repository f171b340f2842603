"""What a model file really is, and whether what is said of it can be true."""
