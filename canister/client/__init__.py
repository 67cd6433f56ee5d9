"""Talking to a server: over REST, with signed messages, and whole files."""

from canister.client.rest import Canister

__all__ = ["Canister"]
