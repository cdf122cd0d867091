"""Image classifiers that learn from labels, from smoothed labels, or from a teacher."""
