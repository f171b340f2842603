"""The manifest and the report beside the files."""
