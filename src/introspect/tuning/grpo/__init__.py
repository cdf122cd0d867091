"""Reinforcement learning on answer F1 (group relative policy optimisation)."""
