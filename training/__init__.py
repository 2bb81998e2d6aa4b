"""Samples, the time-aware ranker, and the hourly trainer."""
