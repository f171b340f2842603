"""What touches disk, processes and the machine; knows nothing of models."""
