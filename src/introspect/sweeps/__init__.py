"""Many runs of one command: jobs and their outcomes, grids, searches, and the table at the end."""
