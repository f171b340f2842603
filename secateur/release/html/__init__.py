"""report.html: one self-contained page of an output's results, or of several outputs'."""
