"""Experiments: user metrics from exposures and events, variance-reduced tests, reports."""
