"""What goes with the files: manifest and report."""
