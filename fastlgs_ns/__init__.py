"""Home of FastLGS; it registers no method yet."""
