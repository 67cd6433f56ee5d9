"""Pages that are only read: health, documentation, the OpenAPI document."""
