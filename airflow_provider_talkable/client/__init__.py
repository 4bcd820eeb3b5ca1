"""Sending: thin clients around the protocol, and the retries they share."""
