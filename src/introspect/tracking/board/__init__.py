"""The offline dashboard: all runs of a folder on one page, which needs neither a server nor a network."""
