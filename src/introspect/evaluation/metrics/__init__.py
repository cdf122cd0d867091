"""Metrics of rollouts: their statistics, resampling, and the `torchmetrics` classes that collect them."""
