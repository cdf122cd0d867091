"""Bridges between the trainer and the rest of the framework."""
