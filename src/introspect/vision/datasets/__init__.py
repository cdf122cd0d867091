"""Labelled images. A data set is a factory: `load(split)` gives a map-style dataset of (image, class)."""
