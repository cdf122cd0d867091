"""Chat models: one module per engine that speaks the `ChatModel` protocol."""
