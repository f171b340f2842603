"""Go's text/template as far as Ollama's templates use it: parsed and evaluated in Python.

Where a release is made there is no Go. What is outside this subset is an error and never a guess;
`tests/test_ollama_go.py` holds every template and a list of hard cases against Go itself.
Reference: the documentation of the Go packages text/template and fmt (Go 1.27).
"""
