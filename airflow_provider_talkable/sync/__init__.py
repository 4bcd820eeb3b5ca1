"""The refund sync as a library: it works without Airflow."""
