"""Work in parts: here one after the other, or side by side on the machines of a cluster."""
