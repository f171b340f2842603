"""The plan: its document, edits, sources, memory and importance matrix. Imports no torch."""
