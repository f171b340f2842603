"""How long work will take on this machine, and what it needs: told before it begins."""
