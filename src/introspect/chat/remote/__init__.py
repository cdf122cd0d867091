"""Any OpenAI-compatible server as a chat model, and vLLM servers that are started here."""
