"""Which experts are kept."""
