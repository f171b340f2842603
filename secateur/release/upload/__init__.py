"""What goes to the hub, and how it gets there."""
