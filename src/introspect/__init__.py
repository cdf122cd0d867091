"""Experiments on how models think: metacognitive behavioural tuning, distillation and network dissection."""

__version__ = "0.1.0"
