"""Training a reasoning student: masks, packing, likelihood, the modules and their data."""
