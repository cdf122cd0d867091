"""What leaves the process for a person to look at: experiment trackers, saved configs, and what must not be in them."""
