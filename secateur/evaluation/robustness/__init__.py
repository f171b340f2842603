"""What a model does when it fails: loops, no answer, an echo, another language."""
