"""What every room uses: errors, files, seeds, processes, progress, loggers."""
