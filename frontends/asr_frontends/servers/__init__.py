"""The sockets: uvicorn, WebSocket and HTTP."""
