"""The blob store: payloads and results."""
