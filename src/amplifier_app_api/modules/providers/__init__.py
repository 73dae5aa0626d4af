"""Providers: who answers."""
