"""`GET /v1/realtime`: OpenAI Realtime events over a WebSocket, and our own `antiphon.v1` beside them."""
