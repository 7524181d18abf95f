"""The server: OpenAI's HTTP interface over the engine, and task models beside it."""
