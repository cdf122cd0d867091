"""A Hugging Face model in this process as a chat model."""
