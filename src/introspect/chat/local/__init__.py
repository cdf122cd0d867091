"""The chat model on a Hugging Face model in this process."""
