"""Measures of how interpretable a classifier is; docs/measures.md defines their numbers."""
