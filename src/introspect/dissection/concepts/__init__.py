"""Images with the concepts that are in them: what a network is dissected with."""
