"""Runs: each step of facepipe over shards, on an engine, with commits and progress."""
