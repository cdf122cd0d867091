"""Network dissection: which units of a network detect which human concepts, and how many."""
