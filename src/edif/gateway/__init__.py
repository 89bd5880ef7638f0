"""The HTTP and WebSocket edge, and the runtime that carries out the scheduler's decisions."""
