"""Experiment trackers, artifacts, dashboards, study tables, and the config as they show it, without secrets."""
