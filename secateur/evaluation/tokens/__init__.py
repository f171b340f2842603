"""Tokens to measure on: prompts, answers, teacher."""
