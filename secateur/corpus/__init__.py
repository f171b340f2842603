"""Text to rows of tokens: mixes of sources, read, rendered, sampled and packed."""
