"""Questions to a served model: each is asked once, and everything that came back is kept."""
