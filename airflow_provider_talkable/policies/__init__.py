"""Policies for what Airflow does after a failure."""
