"""Permanent storage as a gateway needs it: items and transactions by their ids, and GraphQL to find them."""
