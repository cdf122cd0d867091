"""Chat models: one protocol, local and remote engines, and the store of their responses."""
