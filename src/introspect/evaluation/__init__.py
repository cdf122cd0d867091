"""Rollouts, what they score, and what a judge says of them."""
