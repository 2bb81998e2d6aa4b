"""Airflow only: when, in which order, on which partition."""
