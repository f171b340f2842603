"""What is measured per token, and summaries."""
