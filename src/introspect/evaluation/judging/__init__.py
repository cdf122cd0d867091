"""Judges: what they are asked, how their replies are read, and how a set of rollouts is judged."""
