"""Reasoning students: benchmarks, rollouts, trace recipes, tuning and metrics."""
