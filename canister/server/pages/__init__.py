"""What is only read: health, documentation, the OpenAPI document."""
