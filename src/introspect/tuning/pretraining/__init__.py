"""Pretraining of the embedded base student: its texts, its tokenizer, its batches."""
