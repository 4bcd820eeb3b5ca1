"""The pages in Airflow that show what became of refunds."""
