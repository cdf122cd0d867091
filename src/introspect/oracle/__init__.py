"""The offline teacher and judge: they read the benchmark's annotated solution instead of a model."""
