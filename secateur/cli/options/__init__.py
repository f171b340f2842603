"""The options of all commands: a file for each group of the help pages."""
