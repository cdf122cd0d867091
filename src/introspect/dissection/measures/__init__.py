"""Other measures of how interpretable a classifier is: what they say is in docs/measures.md."""
