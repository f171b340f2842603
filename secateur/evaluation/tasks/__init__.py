"""Tasks: questions with a right answer, what was answered, and what that says."""
